//! The commands of a client.

use protobuf::well_known_types::wrappers::BytesValue;
use protobuf::Message;
use serde_json::{json, Value};
use ttrpc::proto::KeyValue;
use ttrpc::{Error, Request, Response};

use crate::control::{failure, Answer, Failure};
use crate::service::{bytes_of, encode, numbered, SERVICE};

pub trait Caller: Sync {
    fn request(&self, request: Request) -> Result<Response, Error>;
}

/// The kind of an error: the code of a peer's status, or the variant of another error.
pub fn describe(error: Error) -> Failure {
    match error {
        Error::RpcStatus(status) => {
            failure(&format!("{:?}", status.code.enum_value_or_default()), status.message)
        }
        Error::Socket(text) => failure("socket", text),
        Error::RemoteClosed => failure("closed", "the server closed the connection"),
        other => failure("other", other),
    }
}

fn from_hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

fn to_hex(data: &[u8]) -> String {
    data.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn request(method: &str, payload: Vec<u8>) -> Request {
    let mut request = Request::new();
    request.service = SERVICE.to_string();
    request.method = method.to_string();
    request.payload = payload;
    request
}

pub fn unary(caller: &impl Caller, name: &str, arguments: &Value) -> Answer {
    match name {
        "call" => call(caller, arguments),
        "calls" => calls(caller, arguments),
        _ => Err(failure("unknown command", name)),
    }
}

/// One unary call; request and reply are serialized messages in hexadecimal.
fn call(caller: &impl Caller, arguments: &Value) -> Answer {
    let payload = from_hex(arguments["request"].as_str().unwrap_or(""));
    let mut request = request(arguments["method"].as_str().unwrap_or(""), payload);
    if let Some(service) = arguments["service"].as_str() {
        request.service = service.to_string();
    }
    request.timeout_nano = arguments["timeout_ms"].as_i64().unwrap_or(0) * 1_000_000;
    for pair in arguments["metadata"].as_array().into_iter().flatten() {
        request.metadata.push(KeyValue {
            key: pair[0].as_str().unwrap_or("").to_string(),
            value: pair[1].as_str().unwrap_or("").to_string(),
            ..Default::default()
        });
    }
    let response = caller.request(request).map_err(describe)?;
    Ok(json!(to_hex(&response.payload)))
}

/// Many concurrent calls of Echo; returns the numbers of answers, and of answers with other bytes.
fn calls(caller: &impl Caller, arguments: &Value) -> Answer {
    let count = arguments["count"].as_u64().unwrap_or(0) as usize;
    let callers = arguments["callers"].as_u64().unwrap_or(1) as usize;
    let sizes: Vec<usize> = arguments["sizes"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|size| size.as_u64().unwrap_or(0) as usize)
        .collect();
    let one = |number: usize| -> Result<bool, Error> {
        let payload = numbered(number, sizes[number % sizes.len()]);
        let response = caller.request(request("Echo", encode(&bytes_of(payload.clone()))))?;
        Ok(BytesValue::parse_from_bytes(&response.payload).is_ok_and(|reply| reply.value == payload))
    };
    let results: Vec<Result<bool, Error>> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..callers)
            .map(|first| {
                let one = &one;
                scope.spawn(move || (first..count).step_by(callers).map(one).collect::<Vec<_>>())
            })
            .collect();
        running.into_iter().flat_map(|thread| thread.join().expect("a caller panicked")).collect()
    });
    let mut wrong = 0;
    let done = results.len();
    for result in results {
        wrong += !result.map_err(describe)? as usize;
    }
    Ok(json!({"done": done, "wrong": wrong}))
}
