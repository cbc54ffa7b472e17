//! The test service: the same methods as in ttrpcpeer/server.go, if this implementation supports them.

use std::collections::HashMap;
use std::time::Duration;

use protobuf::well_known_types::struct_::{ListValue, Struct, Value as StructValue};
use protobuf::well_known_types::wrappers::{BytesValue, Int64Value};
use protobuf::{Enum, Message};
use serde_json::json;
use ttrpc::error::get_rpc_status;
use ttrpc::{Code, Error, Response};

use crate::control::emit;

pub const SERVICE: &str = "nri_sync.testing.Echo";
pub const UNARY: [&str; 6] = ["Echo", "Sized", "Sleep", "Fail", "Metadata", "Plain"];

/// Content that reveals lost, repeated or misplaced bytes.
pub fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i * 7 + (i >> 8)) as u8).collect()
}

/// A payload that begins with its number, if there is room.
pub fn numbered(number: usize, size: usize) -> Vec<u8> {
    let mut data = pattern(size);
    for (to, from) in data.iter_mut().zip(format!("{number}:").bytes()) {
        *to = from;
    }
    data
}

pub fn bytes_of(value: Vec<u8>) -> BytesValue {
    BytesValue { value, ..Default::default() }
}

pub fn number(value: i64) -> Int64Value {
    Int64Value { value, ..Default::default() }
}

pub fn parse<M: Message>(data: &[u8]) -> Result<M, Error> {
    M::parse_from_bytes(data).map_err(|error| Error::Others(error.to_string()))
}

pub fn encode<M: Message>(message: &M) -> Vec<u8> {
    message.write_to_bytes().expect("a message in memory can be encoded")
}

/// The time that a call sleeps before it is served.
pub fn pause(method: &str, payload: &[u8], timeout: i64) -> Result<Duration, Error> {
    if method != "Sleep" {
        return Ok(Duration::ZERO);
    }
    emit("sleeping", json!({"timeout_ns": timeout}));
    Ok(Duration::from_millis(parse::<Int64Value>(payload)?.value as u64))
}

pub fn serve(
    method: &str,
    payload: &[u8],
    timeout: i64,
    metadata: &HashMap<String, Vec<String>>,
) -> Result<Vec<u8>, Error> {
    match method {
        "Echo" => Ok(encode(&parse::<BytesValue>(payload)?)),
        "Sized" => Ok(encode(&bytes_of(pattern(parse::<Int64Value>(payload)?.value as usize)))),
        "Sleep" => Ok(encode(&number(timeout))),
        "Fail" => Err(fail(&parse::<Struct>(payload)?)),
        "Metadata" => Ok(encode(&listed(metadata))),
        _ => Err(Error::Others("plain error".to_string())),
    }
}

fn fail(request: &Struct) -> Error {
    let code = request.fields["code"].number_value() as i32;
    let message = request.fields["message"].string_value();
    get_rpc_status(Code::from_i32(code).unwrap_or(Code::UNKNOWN), message)
}

fn listed(metadata: &HashMap<String, Vec<String>>) -> Struct {
    let mut reply = Struct::new();
    for (key, values) in metadata {
        let mut list = ListValue::new();
        for value in values {
            let mut item = StructValue::new();
            item.set_string_value(value.clone());
            list.values.push(item);
        }
        let mut field = StructValue::new();
        field.set_list_value(list);
        reply.fields.insert(key.clone(), field);
    }
    reply
}

pub fn response(outcome: Result<Vec<u8>, Error>) -> Response {
    match outcome {
        Ok(payload) => {
            let mut response = Response::new();
            response.set_status(ttrpc::get_status(Code::OK, ""));
            response.payload = payload;
            response
        }
        Err(error) => error.into(),
    }
}
