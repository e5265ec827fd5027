//! A `provided` runtime that draws when it starts and again for each event, and answers with both:
//! `{"init": {"library": […]}, "now": {"library": […]}}`.

use std::env;
use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;

/// What a library's generators gave, as texts in hexadecimal.
#[derive(Debug, Default)]
pub struct Drawn(Vec<String>);

impl Drawn {
    pub fn bytes(&mut self, bytes: impl AsRef<[u8]>) {
        let mut text = String::new();
        for byte in bytes.as_ref() {
            write!(text, "{byte:02x}").expect("a String takes everything");
        }
        self.0.push(text);
    }

    fn of(library: &str, draw: &mut impl FnMut(&mut Self)) -> String {
        let mut drawn = Self::default();
        draw(&mut drawn);
        draw(&mut drawn);
        format!(r#"{{"{library}":["{}"]}}"#, drawn.0.join(r#"",""#))
    }
}

/// Serves events for as long as there are any.
pub fn run(library: &str, mut draw: impl FnMut(&mut Drawn)) -> io::Result<()> {
    let init = Drawn::of(library, &mut draw);
    let api = env::var("AWS_LAMBDA_RUNTIME_API").map_err(io::Error::other)?;
    let mut stream = BufReader::new(TcpStream::connect(&api)?);
    loop {
        let id = exchange(&mut stream, &api, "GET", "next", "")?;
        let answer = format!(
            r#"{{"init":{init},"now":{}}}"#,
            Drawn::of(library, &mut draw)
        );
        exchange(
            &mut stream,
            &api,
            "POST",
            &format!("{id}/response"),
            &answer,
        )?;
    }
}

/// One request and its response: the request id that it has in its head, if any.
fn exchange(
    stream: &mut BufReader<TcpStream>,
    api: &str,
    method: &str,
    path: &str,
    body: &str,
) -> io::Result<String> {
    let length = body.len();
    let head = format!(
        "{method} /2018-06-01/runtime/invocation/{path} HTTP/1.1\r\nHost: {api}\r\n\
         Content-Length: {length}\r\n\r\n"
    );
    stream
        .get_mut()
        .write_all(format!("{head}{body}").as_bytes())?;
    let (mut id, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Some((name, value)) = line.trim_end().split_once(':') else {
            if line == "\r\n" {
                break;
            }
            continue;
        };
        match name.to_ascii_lowercase().as_str() {
            "lambda-runtime-aws-request-id" => id = value.trim().to_owned(),
            "content-length" => length = value.trim().parse().map_err(io::Error::other)?,
            _ => {}
        }
    }
    io::copy(&mut stream.take(length), &mut io::sink())?;
    Ok(id)
}
