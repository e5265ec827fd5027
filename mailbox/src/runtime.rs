//! A runtime for functions in Rust. [`run`] passes each event to a handler. It uses the mailbox
//! where possible, and Lambda's Runtime API otherwise, so it also runs where there is only the
//! Runtime API, such as on Lambda.
//!
//! The handler is called on the thread that calls [`run`], one event at a time. Other threads of
//! the process are paused between two invocations, and go on with the next.
//!
//! ```no_run
//! use hearth_mailbox::runtime::{Failure, run};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     run(|event, context| {
//!         eprintln!("{} bytes for {}", event.len(), context.request_id);
//!         match event {
//!             [] => Err(Failure::new("Empty", "there is nothing in it")),
//!             event => Ok(event.to_vec()),
//!         }
//!     })?;
//!     Ok(())
//! }
//! ```

use std::any::Any;
use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, SystemTime};

use hearth_protocol::guest::MAX_PAYLOAD;
use hearth_protocol::mailbox::AnswerMeta;
use serde_json::json;
use ureq::Agent;

use crate::{Answered, Kind, Mailbox};

const REQUEST_ID: &str = "Lambda-Runtime-Aws-Request-Id";
const DEADLINE: &str = "Lambda-Runtime-Deadline-Ms";
const FUNCTION_ARN: &str = "Lambda-Runtime-Invoked-Function-Arn";
const TRACE_ID: &str = "Lambda-Runtime-Trace-Id";
const CLIENT_CONTEXT: &str = "Lambda-Runtime-Client-Context";
const TENANT_ID: &str = "Lambda-Runtime-Aws-Tenant-Id";
const ERROR_TYPE: &str = "Lambda-Runtime-Function-Error-Type";

/// What a handler gets to know about its invocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// The invocation's id.
    pub request_id: String,
    /// When the invocation's time is over.
    pub deadline: SystemTime,
    /// The ARN with which the function was invoked, with its qualifier.
    pub invoked_function_arn: String,
    /// `X-Amzn-Trace-Id`, for calls that the function makes.
    pub trace_id: Option<String>,
    /// The caller's client context, as JSON.
    pub client_context: Option<String>,
    /// The tenant that the invocation is for, of a function with tenant isolation.
    pub tenant_id: Option<String>,
}

impl Context {
    /// Time until the deadline.
    pub fn remaining(&self) -> Duration {
        let left = self.deadline.duration_since(SystemTime::now());
        left.unwrap_or_default()
    }

    fn read<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Option<Self> {
        let deadline = Duration::from_millis(get(DEADLINE)?.parse().ok()?);
        Some(Self {
            request_id: get(REQUEST_ID)?.to_owned(),
            deadline: SystemTime::UNIX_EPOCH + deadline,
            invoked_function_arn: get(FUNCTION_ARN)?.to_owned(),
            trace_id: get(TRACE_ID).map(str::to_owned),
            client_context: get(CLIENT_CONTEXT).map(str::to_owned),
            tenant_id: get(TENANT_ID).map(str::to_owned),
        })
    }

    fn of_lines(lines: &str) -> Option<Self> {
        let headers: Vec<(&str, &str)> = lines
            .split("\r\n")
            .filter_map(|line| line.split_once(": "))
            .collect();
        Self::read(|wanted| {
            let found = headers.iter().find(|(name, _)| *name == wanted);
            found.map(|(_, value)| *value)
        })
    }
}

/// A function's error, as its caller sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// `errorType`.
    pub error_type: String,
    /// `errorMessage`.
    pub message: String,
}

impl Failure {
    /// An error with this type and message.
    pub fn new(error_type: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            error_type: error_type.into(),
            message: message.into(),
        }
    }

    fn of_panic(panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        Self::new("Panic", text.unwrap_or("the handler panicked"))
    }

    fn body(&self) -> Vec<u8> {
        json!({"errorType": self.error_type, "errorMessage": self.message})
            .to_string()
            .into()
    }

    /// The error type, with the characters replaced that a header can't have.
    fn header(&self) -> impl Iterator<Item = char> {
        let clean = |c: char| if c.is_ascii_graphic() { c } else { '_' };
        self.error_type.chars().map(clean)
    }
}

impl<E: Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(std::any::type_name::<E>(), error.to_string())
    }
}

/// Why a function's process can't go on.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// `AWS_LAMBDA_RUNTIME_API` is not set.
    #[error("AWS_LAMBDA_RUNTIME_API: {0}")]
    NoApi(#[from] std::env::VarError),
    /// A request to the Runtime API failed.
    #[error("the Runtime API: {0}")]
    Api(#[from] ureq::Error),
    /// An event came without one of its required headers.
    #[error("an event has no request id, deadline or function ARN")]
    Event,
}

/// Handles events until the process ends.
pub fn run(
    mut handler: impl FnMut(&[u8], &Context) -> Result<Vec<u8>, Failure>,
) -> Result<(), RuntimeError> {
    let api = Api::open()?;
    let mut mailbox = Mailbox::open();
    let (mut context, mut event) = api.next()?;
    loop {
        let result = catch_unwind(AssertUnwindSafe(|| handler(&event, &context)))
            .unwrap_or_else(|panic| Err(Failure::of_panic(&*panic)));
        let answered = match &mut mailbox {
            Some(mailbox) => give(mailbox, &context.request_id, &result),
            None => Answered::NotHere,
        };
        (context, event) = match (answered, &mut mailbox) {
            (
                Answered::Event {
                    meta,
                    body,
                    clock_is_off,
                },
                Some(mailbox),
            ) => {
                if clock_is_off {
                    api.set_clock()?;
                }
                take(mailbox, meta, body)?
            }
            (Answered::Agent, _) => api.next()?,
            (Answered::NotHere | Answered::Event { .. }, _) => {
                api.answer(&context.request_id, &result)?;
                api.next()?
            }
        };
    }
}

fn give(mailbox: &mut Mailbox, request_id: &str, result: &Result<Vec<u8>, Failure>) -> Answered {
    match result {
        Ok(body) => {
            let meta = AnswerMeta::write(request_id, None);
            mailbox.answer(Kind::Response, meta.as_bytes(), body)
        }
        Err(failure) => {
            let kind: String = failure.header().collect();
            let meta = AnswerMeta::write(request_id, Some(&kind));
            mailbox.answer(Kind::Error, meta.as_bytes(), &failure.body())
        }
    }
}

fn take(
    mailbox: &mut Mailbox,
    meta: usize,
    body: usize,
) -> Result<(Context, Vec<u8>), RuntimeError> {
    let (mut headers, mut event) = (vec![0; meta], vec![0; body]);
    mailbox.take(&mut headers, &mut event);
    let headers = std::str::from_utf8(&headers).map_err(|_| RuntimeError::Event)?;
    let context = Context::of_lines(headers).ok_or(RuntimeError::Event)?;
    Ok((context, event))
}

/// Lambda's Runtime API.
struct Api {
    agent: Agent,
    address: String,
}

impl Api {
    fn open() -> Result<Self, RuntimeError> {
        let agent = Agent::new_with_config(Agent::config_builder().proxy(None).build());
        let address = std::env::var("AWS_LAMBDA_RUNTIME_API")?;
        Ok(Self { agent, address })
    }

    fn invocation(&self, what: &str) -> String {
        format!(
            "http://{}/2018-06-01/runtime/invocation/{what}",
            self.address
        )
    }

    fn next(&self) -> Result<(Context, Vec<u8>), RuntimeError> {
        let mut answer = self.agent.get(self.invocation("next")).call()?;
        let limit = MAX_PAYLOAD as u64;
        let event = answer.body_mut().with_config().limit(limit).read_to_vec()?;
        let headers = answer.headers();
        let context = Context::read(|name| headers.get(name)?.to_str().ok());
        Ok((context.ok_or(RuntimeError::Event)?, event))
    }

    fn answer(&self, id: &str, result: &Result<Vec<u8>, Failure>) -> Result<(), RuntimeError> {
        match result {
            Ok(body) => {
                let url = self.invocation(&format!("{id}/response"));
                self.agent.post(url).send(&body[..])?;
            }
            Err(failure) => {
                let url = self.invocation(&format!("{id}/error"));
                let kind: String = failure.header().collect();
                let request = self.agent.post(url).header(ERROR_TYPE, kind);
                request.send(&failure.body()[..])?;
            }
        }
        Ok(())
    }

    fn set_clock(&self) -> Result<(), RuntimeError> {
        let url = format!("http://{}/hearth/clock", self.address);
        self.agent.get(url).call()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    const LINES: &str = "Lambda-Runtime-Aws-Request-Id: 7\r\nLambda-Runtime-Deadline-Ms: 1500\r\n\
                         Lambda-Runtime-Invoked-Function-Arn: arn\r\n";

    #[test]
    fn a_context_is_read_whole_or_not_at_all() {
        let context = Context::of_lines(LINES).unwrap();
        assert_eq!(
            (&*context.request_id, &*context.invoked_function_arn),
            ("7", "arn")
        );
        let deadline = context.deadline.duration_since(SystemTime::UNIX_EPOCH);
        assert_eq!(deadline.unwrap().as_millis(), 1500);
        assert_eq!(
            (&context.trace_id, context.remaining()),
            (&None, Duration::ZERO)
        );
        for (at, _) in LINES.match_indices("Lambda") {
            assert_eq!(
                Context::of_lines(&LINES.replacen(&LINES[at..at + 24], "X", 1)),
                None
            );
        }
    }

    #[test]
    fn a_failure_is_an_error_in_lambdas_form() {
        let failure: Failure = "x".parse::<u8>().unwrap_err().into();
        let body = String::from_utf8(failure.body()).unwrap();
        assert_eq!(
            body,
            r#"{"errorMessage":"invalid digit found in string","errorType":"core::num::error::ParseIntError"}"#
        );
        let kind: String = Failure::new("a b\r\n\u{e4}", "").header().collect();
        assert_eq!(kind, "a_b___");
    }

    /// Without a mailbox, `run` uses the Runtime API only.
    #[test]
    fn events_come_and_results_errors_and_panics_go_by_the_runtime_api() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let api = Api {
            agent: Agent::new_with_defaults(),
            address: listener.local_addr().unwrap().to_string(),
        };
        let server = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream);
            let next = request(&mut reader);
            answer(&mut reader, "200 OK", LINES, "event");
            let response = request(&mut reader);
            answer(&mut reader, "202 Accepted", "", "");
            let error = request(&mut reader);
            answer(&mut reader, "202 Accepted", "", "");
            [next, response, error]
        });
        let (context, event) = api.next().unwrap();
        assert_eq!((&event[..], &*context.request_id), (&b"event"[..], "7"));
        api.answer("7", &Ok(b"result".to_vec())).unwrap();
        let panic = catch_unwind(|| panic!("no {}", 1)).unwrap_err();
        api.answer("7", &Err(Failure::of_panic(&*panic))).unwrap();
        let [next, response, error] = server.join().unwrap();
        assert!(next.starts_with("GET /2018-06-01/runtime/invocation/next "));
        assert!(response.starts_with("POST /2018-06-01/runtime/invocation/7/response "));
        assert!(response.ends_with("result"));
        assert!(error.starts_with("POST /2018-06-01/runtime/invocation/7/error "));
        assert!(error.to_lowercase().contains("function-error-type: panic"));
        assert!(error.ends_with(r#"{"errorMessage":"no 1","errorType":"Panic"}"#));
    }

    fn request(reader: &mut BufReader<TcpStream>) -> String {
        let (mut all, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            all.push_str(&line);
            if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        all + &String::from_utf8(body).unwrap()
    }

    fn answer(reader: &mut BufReader<TcpStream>, status: &str, headers: &str, body: &str) {
        let length = body.len();
        let text = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n{body}");
        reader.get_mut().write_all(text.as_bytes()).unwrap();
    }
}
