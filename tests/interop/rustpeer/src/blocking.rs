//! The implementation with threads. It has unary calls only.

use std::collections::HashMap;
use std::sync::Arc;

use ttrpc::{Client, Error, MethodHandler, Request, Response, Server, TtrpcContext};

use crate::control;
use crate::driver::{self, Caller};
use crate::service;

struct Method(&'static str);

impl MethodHandler for Method {
    fn handler(&self, context: TtrpcContext, request: Request) -> ttrpc::Result<()> {
        let timeout = request.timeout_nano;
        let outcome = service::pause(self.0, &request.payload, timeout).and_then(|pause| {
            std::thread::sleep(pause);
            service::serve(self.0, &request.payload, timeout, &context.metadata)
        });
        ttrpc::response_to_channel(context.mh.stream_id, service::response(outcome), context.res_tx)
    }
}

pub fn serve(address: &str) {
    let mut methods: HashMap<String, Box<dyn MethodHandler + Send + Sync>> = HashMap::new();
    for name in service::UNARY {
        methods.insert(format!("/{}/{name}", service::SERVICE), Box::new(Method(name)));
    }
    let mut server = Server::new().bind(address).expect("bind").register_service(methods);
    server.start().expect("start");
    control::serve(|name, _| Err(control::failure("unknown command", name)));
}

struct Blocking(Client);

impl Caller for Blocking {
    fn request(&self, request: Request) -> Result<Response, Error> {
        self.0.request(request)
    }
}

pub fn drive(address: &str) {
    let caller = Arc::new(Blocking(Client::connect(address).expect("connect")));
    control::serve(move |name, arguments| driver::unary(&*caller, name, &arguments));
}
