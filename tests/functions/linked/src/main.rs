//! Does what the event's `op` says, by the crate's runtime.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hearth_mailbox::runtime::{Context, Failure, RuntimeError, run};
use serde_json::{Value, json};

fn main() -> Result<(), RuntimeError> {
    run(handle)
}

fn handle(event: &[u8], context: &Context) -> Result<Vec<u8>, Failure> {
    let event: Value = serde_json::from_slice(event)?;
    let answer = match event["op"].as_str() {
        Some("echo") => event,
        Some("say") => {
            println!("said {}", event["word"]);
            nap(&event);
            eprint!("unfinished {}", event["word"]);
            Value::Null
        }
        Some("who") => json!([
            context.request_id,
            context.invoked_function_arn,
            context.remaining().as_millis(),
            context.trace_id,
            context.client_context,
        ]),
        Some("wall_clock") => json!(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64()),
        Some("nap") => {
            nap(&event);
            Value::Null
        }
        Some("panic") => panic!("as it was asked to"),
        other => return Err(Failure::new("NoSuchOp", format!("{other:?}"))),
    };
    Ok(answer.to_string().into())
}

fn nap(event: &Value) {
    std::thread::sleep(Duration::from_millis(event["ms"].as_u64().unwrap_or(0)));
}
