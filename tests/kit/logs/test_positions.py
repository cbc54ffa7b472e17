"""Secrets that their position in a command or a URL shows, and lookalikes."""

from __future__ import annotations

import shlex
import time

import pytest

from nri_sync.kit.logs.masking import MASKED, Mask

__all__: list[str] = []

# Commands with the secret hunter2. Each is tried as a list of arguments, and as a text for a shell.
SECRETS = """
mysql -uroot -phunter2 db
mysql -u root -p'hunter2' db
mysqldump --password=hunter2 db
mysqladmin ping -h localhost -u root -phunter2
/usr/bin/mariadb-dump -phunter2
psql postgres://me:hunter2@db/x
psql "host=db password=hunter2 user=me"
PGPASSWORD=hunter2 psql -U me -h db
curl -u me:hunter2 https://h
curl -su me:hunter2 https://h/login
curl -ume:hunter2 https://h
curl --user me:hunter2 https://h
curl --user=me:hunter2 https://h
curl -u hunter2: https://h
curl -u :hunter2 https://h
curl -x http://p -U me:hunter2 https://h
curl -H "Authorization: Bearer hunter2" https://h
curl -H "Authorization:Bearer-hunter2" https://h
curl -H 'X-Api-Key: hunter2' https://h
curl --header "PRIVATE-TOKEN: hunter2" https://h
curl -sSH "Authorization: token hunter2" https://h
curl --oauth2-bearer hunter2 https://h
curl -b session=hunter2 https://h
curl -d password=hunter2 https://h
curl -u admin:12345hunter2 h
wget --password=hunter2 --user=me https://h
wget --header="Authorization: Basic hunter2" https://h
wget https://me:hunter2@h/x
redis-cli -a hunter2 ping
redis-cli -h h -p 6379 --pass hunter2
redis-cli -u redis://hunter2@h:6379
redis-server --requirepass hunter2 --masterauth hunter2
mongo -u me -p hunter2
mongosh --username me --password hunter2
mongodump -phunter2
sshpass -p hunter2 ssh -p 22 me@h
sshpass -phunter2 ssh me@h
openssl rsa -passin pass:hunter2 -in k
openssl enc -aes-256-cbc -k hunter2 -in x
docker login -u me -p hunter2 reg
docker login -u me --password hunter2
helm registry login -u me -p hunter2 reg
ldapsearch -x -D cn=me -w hunter2 -b dc=x
ldappasswd -s hunter2
smbclient //h/s -U me%hunter2
smbclient //h/s --user=me%hunter2
mount.cifs //h/s /m -o username=me,password=hunter2
lftp -u me,hunter2 sftp://h
etcdctl --user root:hunter2 get x
ctr images pull --user me:hunter2 i
http -a me:hunter2 h
7z a -phunter2 x.7z d
zip -P hunter2 x d
mosquitto_pub -u me -P hunter2 -t t
sqlcmd -S h -U sa -P hunter2
git clone https://hunter2@github.com/a/b
git clone https://hunter2:x-oauth-basic@github.com/a/b
git clone https://oauth2:hunter2@gitlab.com/a/b
app --dsn https://hunter2@sentry.io/1
redis://hunter2@h:6379/0
nats://hunter2@h:4222
app --url=redis://hunter2@h
sh -c "mysql -uroot -phunter2 db < /x"
sh -c 'exec curl -fsS -u "me:hunter2" http://h | jq .'
sh -c "mongo -u me -p hunter2 && mkdir -p dir"
app --token hunter2
sh -c "app --token hunter2 --port 80"
docker-entrypoint.sh -uroot -phunter2
tini -- mysql -phunter2
AWS_SECRET_ACCESS_KEY=hunter2 aws s3 ls
java -Djavax.net.ssl.keyStorePassword=hunter2 -jar a
keytool -storepass hunter2 -keypass hunter2
snmpget -v2c -c hunter2 h
ab -A me:hunter2 http://h/
curl "https://h/?sig=hunter2&x=1"
cypher-shell -u neo4j -p hunter2
wrapper.sh -uroot -pHUNTER2
wrapper.sh -u me:hunter2
rediss://:hunter2@h:6379
mysqldump -uroot -phunter2 --all-databases | gzip
useradd -p hunter2 me
git -c http.extraHeader="Authorization: Basic hunter2" fetch
docker run --rm -it mysql:8 mysql -h db -uroot -phunter2
mongodb+srv://me:hunter2@h/db
"""

# Commands that stay as they are: ports, ids, digests, names, paths.
READABLE = """
docker run -p 8080:80 i
docker run -p8080:80 i
docker run --name mongo -p 27017:27017 mongo
docker run -p 127.0.0.1:8080:80/tcp -u node:node i
app -p8080
app -p 8080
nice -n5 x
mkdir -p dir
ssh -p 22 me@h
ssh -p2222 git@github.com
git clone git@github.com:x/y
git clone ssh://git@github.com/x/y
git clone git+ssh://git@github.com/x/y
sendmail me@example.com
app --user 1000:1000
app --user=1000:1000
app -u root
app -u 1000:1000
app -u root:0
app -u 1000
docker run image@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
docker.io/library/nginx:1.25@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
find / -print -path x -prune -perm 644
gcc -pthread -pipe -p x
date -u +%H:%M:%S
sh -c "date -u +'%Y-%m-%dT%H:%M:%SZ'"
kubectl --user system:serviceaccount:a:b get x
python3 -u -m app:main
sort -u a.txt
ps -p1 -u root
cp -p a b
curl -u me https://h
curl -fsSL -o out http://h:80/a@b
mysql -u root -p db
mysql -uroot -P3306 -h db
redis-cli -h h -p 6379
psql -U me -p 5432 -W -h h
rsync -avzp a me@h:/b
ps -ef
tar -xzpf a.tar
app -pn5 -p100ms -p512Mi -p80/tcp -p::1
app https://example.com:80/a@b
app --listen :8080 --bind 0.0.0.0:80
jdbc:mysql://h:3306/db
unix:///run/x.sock
openssl rsa -passin file:/k -in k
openssl x509 -in a -noout -text
ldapsearch -x -H ldap://h -s sub -b dc=x
app -parallel -proxyHost h -profile
app -p10.0.0.1:8080:http
docker-pullable://nginx@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
docker-pullable://nginx:1.25@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
docker-pullable://h:5000/nginx:1.25@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
wait-for -h mongo -p 27017
nc -z mysql -p3306
ssh login -p 22
app --scheme http -a 0.0.0.0:8080
etcd --client-cert-auth=true --peer-client-cert-auth=true --key-file=/pki/server.key
kube-apiserver --anonymous-auth=false --enable-bootstrap-token-auth=TRUE --enable-aggregator-routing=true
kube-controller-manager --use-service-account-credentials true --leader-elect=true
sh -c "rpk start --auth=true --port 80"
snmpd -f -Lo -C -c /etc/snmp/snmpd.conf
snmptrapd -f -c /etc/snmp/snmptrapd.conf
chpst -u app:app ./run
kubelet --config=/var/lib/kubelet/config.yaml --node-ip=172.18.0.2 --provider-id=kind://docker/kind/worker
kube-proxy --config=/var/lib/kube-proxy/config.conf --hostname-override=worker
/coredns -conf /etc/coredns/Corefile -dns.port=53
nginx -g "daemon off;"
nginx -c /etc/nginx/nginx.conf -p /etc/nginx -t
docker-entrypoint.sh postgres -c max_connections=200 -c ssl=on -p 5432
java -Xmx512m -XX:+UseG1GC -Djava.security.egd=file:/dev/./urandom -jar /app.jar --server.port=8080
node -p "process.version"
python3 -u -m gunicorn -w 4 -b 0.0.0.0:8000 -u www-data -p /run/gunicorn.pid app:app
envoy -c /etc/envoy/envoy.yaml --service-node node1 --component-log-level upstream:debug
calico-node -felix-ready -bird-ready
prometheus --web.console.templates=/etc/prometheus/consoles --web.external-url=http://prometheus.example.com/
istio-iptables -p 15001 -z 15006 -u 1337 -m REDIRECT -i "*" -x "" -d 15090,15021
sh -c "pg_isready -U $POSTGRES_USER -d $POSTGRES_DB -h 127.0.0.1 -p 5432"
sh -c "curl -sf -o /dev/null -w '%{http_code}' -H 'Accept: text/plain' http://h:8080/healthz || exit 1"
sh -c "mysqladmin ping -h 127.0.0.1 -P 3306 -u root"
mvn -Pproduction -pl module1 -am package
dotnet publish -p:PublishDir=/out -pUseAppHost=false
find / -perm /222 -print
"""


def lines(text: str) -> list[str]:
    return text.strip().split("\n")


@pytest.mark.parametrize("command", lines(SECRETS))
def test_secrets_in_commands(command: str) -> None:
    arguments = shlex.split(command)
    shown = list(Mask().items(arguments))
    text = Mask().value("COMMAND", command)
    for each in (" ".join(shown), text):
        assert "hunter2" not in each.lower()
        assert MASKED in each
    assert len(shown) == len(arguments)
    # All other words stay readable.
    for given, got in zip(arguments, shown):
        assert got == given or MASKED in got


@pytest.mark.parametrize("command", lines(READABLE))
def test_lookalikes_stay_readable(command: str) -> None:
    arguments = shlex.split(command)
    assert list(Mask().items(arguments)) == arguments
    assert Mask().value("COMMAND", command) == command


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("mysql -u root -p'hunter2' db", "mysql -u root -p'(masked)' db"),
        ('curl -u "me:hunter2" h', 'curl -u "me:(masked)" h'),
        ("curl -u'me:hunter2' h", "curl -u'me:(masked)' h"),
        ("curl -u hunter2: h", "curl -u (masked) h"),
        ("curl \\\n -u \\\n me:hunter2", "curl \\\n -u \\\n me:(masked)"),
        ("""sh -c 'x "mysql -phunter2"'""", """sh -c 'x "mysql -p(masked)"'"""),
        ("openssl rsa -passin pass:hunter2 -in k", "openssl rsa -passin pass:(masked) -in k"),
        ("redis://hunter2@h/0 https://me:hunter2@h", "redis://(masked)@h/0 https://me:(masked)@h"),
        ("sshpass -p hunter2 ssh -p 22 h", "sshpass -p (masked) ssh -p 22 h"),
        ("sshpass -p hunter2 docker run -p 80:80 -p 90", "sshpass -p (masked) docker run -p 80:80 -p 90"),
        ("mongo -p hunter2; mkdir -p dir", "mongo -p (masked); mkdir -p dir"),
        ("A=$(mysql -phunter2 -e x)", "A=$(mysql -p(masked) -e x)"),
        ("mysql -h docker -phunter2", "mysql -h docker -p(masked)"),
        ("curl http://h/login -su me:hunter2", "curl http://h/login -su me:(masked)"),
        ("curl -u admin:1234 h", "curl -u admin:(masked) h"),
        ("app -u admin:1234 h", "app -u admin:1234 h"),
        ("docker run -u node:node i curl -u me:hunter2 h", "docker run -u node:node i curl -u me:(masked) h"),
        ("mysql -uroot -p1234", "mysql -uroot -p(masked)"),
        ("X=1 /usr/bin/mongo -p 1234", "X=1 /usr/bin/mongo -p (masked)"),
        ("sudo -E -- mysql -p1234", "sudo -E -- mysql -p(masked)"),
        ("app --token=hunter2 --port 80", "app --token=(masked) --port 80"),
        ("env A_TOKEN='hunter 2' app -p 80", "env A_TOKEN='(masked)' app -p 80"),
        ("app --token 12:34", "app --token (masked)"),
    ],
)  # fmt: skip
def test_the_place_of_the_replacement(command: str, shown: str) -> None:
    assert Mask().value("COMMAND", command) == shown
    assert list(Mask().items(["sh", "-c", command])) == ["sh", "-c", shown]
    assert Mask().value("COMMAND", shown) == shown, "a masked text stays as it is"


@pytest.mark.parametrize(
    "token",
    [
        "ghp_" + "a1B2" * 9, "github_pat_" + "a1B2" * 9, "glpat-" + "a1B2" * 5, "xoxb-" + "123-" * 5,
        "AKIA" + "ABCD1234" * 2, "AIza" + "a1B2c" * 7, "sk_live_" + "a1B2" * 6, "sk-" + "a1B2" * 12,
        "hvs." + "a1B2" * 8, "npm_" + "a1B2" * 9, "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
    ],
)  # fmt: skip
def test_tokens_of_a_known_form(token: str) -> None:
    assert Mask().value("A", token) == MASKED
    assert Mask().value("A", f"run {token}, please") == f"run {MASKED}, please"
    assert Mask().value("A", f"x-{token}") == f"x-{token}", "a part of a longer name"


def test_a_private_key() -> None:
    key = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nhunter2\n-----END RSA PRIVATE KEY-----"
    shown = "-----BEGIN RSA PRIVATE KEY-----(masked)-----END RSA PRIVATE KEY-----"
    assert Mask().value("A", f"{key}\n{key}") == f"{shown}\n{shown}"
    assert "hunter2" not in Mask().value("A", key[:-20])


def test_own_names_leave_the_rules_for_positions() -> None:
    assert list(Mask(["pin"]).items(["mysql", "-phunter2", "--password=x"])) == [
        "mysql", f"-p{MASKED}", "--password=x",
    ]  # fmt: skip


def test_the_time_is_linear() -> None:
    mask = Mask()
    size = 64 * 1024
    before = time.process_time()
    for text in (
        "-a ", "mysql -p", "'", "\"' ", "-u a:b ", "://", "://a:", "://a@", "eyJaaaaaa.", "eyJ", "ghp_", "\\\n",
        "-----BEGIN PRIVATE KEY-----", "-----BEGIN ", "curl -s", "pass:", "-H a:", "a=-", "'-p \" ", "-p1a", ";",
        "://a:x-oauth-basic", "a", "A", "1", "-p", "a=", "a:", "eyJaaaaaa.",
    ):  # fmt: skip
        assert mask.value("A", text * (size // len(text)))
        assert mask.value("A", "app -p" + text * (size // len(text)))
    words = ["mysql", "-a", "-p", "-u", "--b=c"] * 2_000
    assert len(list(mask.items(words))) == len(words)
    assert len(list(mask.items(["curl", "-s" + "s" * size, "-p" + "1a" * size]))) == 3
    # It takes about a second. A quadratic search would take minutes.
    assert time.process_time() - before < 20
