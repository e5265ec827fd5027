//! Answers with the event it was given, beside what Lambda told it about the invocation.

use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use serde_json::{Value, json};

/// One thread: an instance serves one invocation at a time, so there is nothing to spread.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    run(service_fn(echo)).await
}

async fn echo(event: LambdaEvent<Value>) -> Result<Value, Error> {
    let (payload, context) = event.into_parts();
    Ok(json!({
        "echo": payload,
        "function": context.env_config.function_name,
        "version": context.env_config.version,
        "request_id": context.request_id,
        "deadline_ms": context.deadline,
    }))
}
