//! ttRPC's implementation in Rust as a server or a client, driven by a test:
//!
//!     rustpeer server|client sync|async unix:///path/to/socket

mod asynchronous;
mod blocking;
mod control;
mod driver;
mod service;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["server", "sync", address] => blocking::serve(address),
        ["server", "async", address] => asynchronous::serve(address),
        ["client", "sync", address] => blocking::drive(address),
        ["client", "async", address] => asynchronous::drive(address),
        _ => {
            eprintln!("usage: rustpeer server|client sync|async ADDRESS");
            std::process::exit(2);
        }
    }
    // The end of stdin ends the process, in any state of its threads.
    std::process::exit(0);
}
