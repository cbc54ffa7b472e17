//! The asynchronous implementation, with streams.
//!
//! It runs on one thread: it creates a task for every message, and several threads would change their order.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use protobuf::well_known_types::wrappers::{BytesValue, Int64Value};
use serde_json::{json, Value};
use tokio::runtime::Handle;
use ttrpc::error::get_rpc_status;
use ttrpc::r#async::{
    Client, ClientStream, ClientStreamReceiver, ClientStreamSender, MethodHandler, Server,
    ServerStream, ServerStreamReceiver, ServerStreamSender, Service, StreamHandler, StreamInner,
    TtrpcContext,
};
use ttrpc::{Code, Error, Request, Response};

use crate::control::{self, Answer};
use crate::driver::{self, describe, Caller};
use crate::service::{self, bytes_of, encode, number, numbered, parse};

struct Method(&'static str);

#[async_trait]
impl MethodHandler for Method {
    async fn handler(&self, context: TtrpcContext, request: Request) -> ttrpc::Result<Response> {
        let timeout = request.timeout_nano;
        let outcome = match service::pause(self.0, &request.payload, timeout) {
            Ok(pause) => {
                tokio::time::sleep(pause).await;
                service::serve(self.0, &request.payload, timeout, &context.metadata)
            }
            Err(error) => Err(error),
        };
        Ok(service::response(outcome))
    }
}

enum Stream {
    Sum,
    Count,
    CountThenFail,
    Chat,
}

#[async_trait]
impl StreamHandler for Stream {
    async fn handler(
        &self,
        _context: TtrpcContext,
        mut inner: StreamInner,
    ) -> ttrpc::Result<Option<Response>> {
        match self {
            Stream::Sum => {
                let mut requests: ServerStreamReceiver<Int64Value> = ServerStreamReceiver::new(inner);
                let mut total = 0;
                while let Some(request) = requests.recv().await? {
                    total += request.value;
                }
                Ok(Some(service::response(Ok(encode(&number(total))))))
            }
            Stream::Count | Stream::CountThenFail => {
                let request: Int64Value = parse(&inner.recv().await?)?;
                let responses = ServerStreamSender::new(inner);
                for value in 0..request.value {
                    responses.send(&number(value)).await?;
                }
                match self {
                    Stream::Count => Ok(None),
                    _ => Ok(Some(get_rpc_status(Code::ABORTED, "enough").into())),
                }
            }
            Stream::Chat => {
                let mut stream: ServerStream<BytesValue, BytesValue> = ServerStream::new(inner);
                while let Some(request) = stream.recv().await? {
                    stream.send(&request).await?;
                }
                Ok(None)
            }
        }
    }
}

fn runtime() -> Handle {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    let handle = runtime.handle().clone();
    std::thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
    handle
}

/// Runs a future on the thread of the async runtime, and waits for it.
fn wait<T: Send + 'static>(
    handle: &Handle,
    future: impl std::future::Future<Output = T> + Send + 'static,
) -> T {
    let (sender, receiver) = std::sync::mpsc::channel();
    handle.spawn(async move {
        let _ = sender.send(future.await);
    });
    receiver.recv().expect("the runtime ended")
}

pub fn serve(address: &str) {
    let mut methods: HashMap<String, Box<dyn MethodHandler + Send + Sync>> = HashMap::new();
    for name in service::UNARY {
        methods.insert(name.to_string(), Box::new(Method(name)));
    }
    let mut streams: HashMap<String, Arc<dyn StreamHandler + Send + Sync>> = HashMap::new();
    streams.insert("Sum".to_string(), Arc::new(Stream::Sum));
    streams.insert("Count".to_string(), Arc::new(Stream::Count));
    streams.insert("CountThenFail".to_string(), Arc::new(Stream::CountThenFail));
    streams.insert("Chat".to_string(), Arc::new(Stream::Chat));
    let services = HashMap::from([(service::SERVICE.to_string(), Service { methods, streams })]);
    let address = address.to_string();
    let _server = wait(&runtime(), async move {
        let mut server = Server::new().bind(&address).expect("bind").register_service(services);
        server.start().await.expect("start");
        server
    });
    control::serve(|name, _| Err(control::failure("unknown command", name)));
}

#[derive(Clone)]
struct Asynchronous {
    handle: Handle,
    client: Client,
}

impl Caller for Asynchronous {
    fn request(&self, request: Request) -> Result<Response, Error> {
        let client = self.client.clone();
        wait(&self.handle, async move { client.request(request).await })
    }
}

async fn sum(client: Client, values: Vec<i64>) -> Result<i64, Error> {
    let inner = client.new_stream(driver::request("Sum", vec![]), true, false).await?;
    let mut stream: ClientStreamSender<Int64Value, Int64Value> = ClientStreamSender::new(inner);
    for value in values {
        stream.send(&number(value)).await?;
    }
    Ok(stream.close_and_recv().await?.value)
}

async fn count(client: Client, method: String, limit: i64) -> Result<Value, Error> {
    let request = driver::request(&method, encode(&number(limit)));
    let inner = client.new_stream(request, false, true).await?;
    let mut stream: ClientStreamReceiver<Int64Value> = ClientStreamReceiver::new(inner, client);
    let mut seen = vec![];
    loop {
        match stream.recv().await {
            Ok(Some(next)) => seen.push(next.value),
            Ok(None) => return Ok(json!({"seen": seen, "end": "eof"})),
            Err(error) => {
                let error = describe(error);
                return Ok(json!({"seen": seen, "end": error.code, "message": error.message}));
            }
        }
    }
}

async fn chat(client: Client, sizes: Vec<usize>) -> Result<usize, Error> {
    let inner = client.new_stream(driver::request("Chat", vec![]), true, true).await?;
    let mut stream: ClientStream<BytesValue, BytesValue> = ClientStream::new(inner);
    let mut right = 0;
    for (i, size) in sizes.into_iter().enumerate() {
        let payload = numbered(i, size);
        stream.send(&bytes_of(payload.clone())).await?;
        right += (stream.recv().await?.value == payload) as usize;
    }
    stream.close_send().await?;
    match stream.recv().await {
        Err(Error::Eof) => Ok(right),
        other => Err(Error::Others(format!("the stream ended with {other:?}"))),
    }
}

fn numbers(list: &Value) -> Vec<i64> {
    list.as_array().into_iter().flatten().filter_map(Value::as_i64).collect()
}

fn command(caller: &Asynchronous, name: &str, arguments: Value) -> Answer {
    let client = caller.client.clone();
    match name {
        "sum" => wait(&caller.handle, sum(client, numbers(&arguments["values"]))).map(|n| json!(n)),
        "count" => {
            let method = arguments["method"].as_str().unwrap_or("Count").to_string();
            wait(&caller.handle, count(client, method, arguments["n"].as_i64().unwrap_or(0)))
        }
        "chat" => {
            let sizes = numbers(&arguments["sizes"]).into_iter().map(|size| size as usize).collect();
            wait(&caller.handle, chat(client, sizes)).map(|right| json!(right))
        }
        _ => return driver::unary(caller, name, &arguments),
    }
    .map_err(describe)
}

pub fn drive(address: &str) {
    let handle = runtime();
    let address = address.to_string();
    let client = wait(&handle, async move { Client::connect(&address).await }).expect("connect");
    let caller = Asynchronous { handle, client };
    control::serve(move |name, arguments| command(&caller, name, arguments));
}
