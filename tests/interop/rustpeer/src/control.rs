//! JSON lines on stdin and stdout: the protocol that control/control.go describes.

use std::io::{BufRead, Write};

use serde_json::{json, Value};

/// An answer that is an error: its text, and its kind.
pub struct Failure {
    pub message: String,
    pub code: String,
}

pub type Answer = Result<Value, Failure>;

pub fn failure(code: &str, message: impl ToString) -> Failure {
    Failure { message: message.to_string(), code: code.to_string() }
}

fn write(line: Value) {
    let mut out = std::io::stdout().lock();
    // If the test has ended, there is no reader.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

pub fn emit(event: &str, data: Value) {
    write(json!({"event": event, "data": data}));
}

fn answer(id: &Value, outcome: Answer) {
    write(match outcome {
        Ok(result) => json!({"id": id, "result": result}),
        Err(error) => json!({"id": id, "error": {"message": error.message, "code": error.code}}),
    });
}

/// Serves commands, each on a separate thread, until the end of stdin.
pub fn serve(command: impl Fn(&str, Value) -> Answer + Clone + Send + 'static) {
    emit("ready", Value::Null);
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        let mut request: Value = serde_json::from_str(&line).expect("a command is JSON");
        let command = command.clone();
        std::thread::spawn(move || {
            let name = request["cmd"].as_str().expect("a command has a name").to_string();
            let arguments = request["args"].take();
            answer(&request["id"], command(&name, arguments));
        });
    }
}
