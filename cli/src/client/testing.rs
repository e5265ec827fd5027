//! A controller that gives fixed answers, for unit tests.

use std::io::{Read, Write};
use std::net::TcpListener;

use super::Client;

/// A client of a server that answers each path that contains a text with the JSON beside it, the first
/// that fits, and everything else with 404. The server ends with the process.
pub(crate) fn client_of(answers: &[(&'static str, &'static str)]) -> Client {
    let answers = answers.to_vec();
    client_by(move |request| {
        let found = answers.iter().find(|(part, _)| request.contains(part));
        found.map(|(_, json)| (*json).to_owned())
    })
}

/// The same, asking a function about each request line.
pub(crate) fn client_by(mut answer: impl FnMut(&str) -> Option<String> + Send + 'static) -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            let mut piece = [0; 4096];
            while !is_whole(&request) {
                match stream.read(&mut piece) {
                    Ok(0) | Err(_) => break,
                    Ok(length) => request.extend_from_slice(&piece[..length]),
                }
            }
            let text = String::from_utf8_lossy(&request);
            let line = text.lines().next().unwrap_or_default();
            let (status, json) = match answer(line) {
                Some(json) => ("200 OK", json),
                None => ("404 Not Found", r#"{"Message":"none"}"#.to_owned()),
            };
            let length = json.len();
            let head = format!(
                "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
            );
            // A client that has gone does not read its answer.
            let _ = stream.write_all(format!("{head}{json}").as_bytes());
        }
    });
    Client::new(&endpoint).unwrap()
}

/// Whether the request's headers and its body are there.
fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let found = name.eq_ignore_ascii_case("content-length");
        found.then(|| value.trim().parse::<usize>().ok())?
    });
    body.len() >= length.unwrap_or(0)
}
