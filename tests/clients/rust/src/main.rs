//! Does with `aws-sdk-lambda` what its users do, and prints what came back as one JSON object.
//! Usage: sdk-for-rust ENDPOINT PACKAGE.zip

use std::error::Error;
use std::time::Duration;

use aws_sdk_lambda::Client;
use aws_sdk_lambda::client::Waiters;
use aws_sdk_lambda::config::retry::RetryConfig;
use aws_sdk_lambda::config::{Config, Credentials, Region};
use aws_sdk_lambda::operation::RequestId;
use aws_sdk_lambda::operation::create_function::CreateFunctionError;
use aws_sdk_lambda::operation::create_function::builders::CreateFunctionFluentBuilder;
use aws_sdk_lambda::operation::get_function::GetFunctionError;
use aws_sdk_lambda::operation::invoke::InvokeError;
use aws_sdk_lambda::operation::invoke::builders::InvokeFluentBuilder;
use aws_sdk_lambda::primitives::Blob;
use aws_sdk_lambda::types::{
    Environment, FunctionCode, InvocationType, InvokeWithResponseStreamResponseEvent, LogType,
    Runtime,
};
use aws_smithy_http_client::Builder;
use serde_json::{Value, json};

const NAME: &str = "sdk-for-rust";
type Outcome<T> = Result<T, Box<dyn Error>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(endpoint), Some(package)) = (arguments.next(), arguments.next()) else {
        return Err("usage: sdk-for-rust ENDPOINT PACKAGE.zip".into());
    };
    let config = Config::builder()
        .behavior_version_latest()
        .endpoint_url(endpoint)
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new(
            "AKIDEXAMPLE",
            "wJalrXUtnFEMI",
            None,
            None,
            "test",
        ))
        .retry_config(RetryConfig::disabled())
        .http_client(Builder::new().build_http())
        .build();
    let client = Client::from_conf(config);
    let package = Blob::new(std::fs::read(package)?);

    let told = json!({
        "created": create(&client, package.clone()).await?,
        "twice": create_twice(&client, package).await?,
        "got": get(&client).await?,
        "invoked": invoke(&client).await?,
        "event": event(&client).await?,
        "failed": failed(&client).await?,
        "streamed": stream(&client).await?,
        "missing": missing(&client).await?,
        "throttled": throttled(&client).await?,
        "deleted": delete(&client).await?,
    });
    println!("{told}");
    Ok(())
}

fn creation(client: &Client, package: Blob) -> CreateFunctionFluentBuilder {
    client
        .create_function()
        .function_name(NAME)
        .runtime(Runtime::Providedal2023)
        .handler("bootstrap")
        .role("arn:aws:iam::000000000000:role/any")
        .code(FunctionCode::builder().zip_file(package).build())
}

async fn create(client: &Client, package: Blob) -> Outcome<Value> {
    let created = creation(client, package)
        .timeout(30)
        .environment(Environment::builder().variables("TAG", "rust").build())
        .send()
        .await?;
    client
        .wait_until_function_active_v2()
        .function_name(NAME)
        .wait(Duration::from_secs(280))
        .await?;
    Ok(json!({
        "state": created.state().map(|state| state.as_str()),
        "arn": created.function_arn(),
        "memory": created.memory_size(),
    }))
}

async fn create_twice(client: &Client, package: Blob) -> Outcome<Value> {
    let refused = creation(client, package)
        .send()
        .await
        .err()
        .ok_or("it could be created twice")?;
    match refused.into_service_error() {
        CreateFunctionError::ResourceConflictException(told) => Ok(json!(told.message())),
        other => Err(other.into()),
    }
}

async fn get(client: &Client) -> Outcome<Value> {
    let got = client.get_function().function_name(NAME).send().await?;
    let configuration = got.configuration().ok_or("no configuration")?;
    Ok(json!({
        "runtime": configuration.runtime().map(|runtime| runtime.as_str()),
        "state": configuration.state().map(|state| state.as_str()),
        "timeout": configuration.timeout(),
        "tag": configuration
            .environment()
            .and_then(|environment| environment.variables())
            .and_then(|variables| variables.get("TAG")),
    }))
}

fn invocation(client: &Client, payload: Value) -> InvokeFluentBuilder {
    let payload = Blob::new(payload.to_string());
    client.invoke().function_name(NAME).payload(payload)
}

fn text(payload: Option<&Blob>) -> Option<String> {
    payload.map(|payload| String::from_utf8_lossy(payload.as_ref()).into_owned())
}

async fn invoke(client: &Client) -> Outcome<Value> {
    let answer = invocation(client, json!({ "op": "echo", "text": "grüße" }))
        .invocation_type(InvocationType::RequestResponse)
        .log_type(LogType::Tail)
        .send()
        .await?;
    Ok(json!({
        "status": answer.status_code(),
        "version": answer.executed_version(),
        "error": answer.function_error(),
        "payload": text(answer.payload()),
        "log": answer.log_result(),
        "request": answer.request_id(),
    }))
}

async fn event(client: &Client) -> Outcome<Value> {
    let answer = invocation(client, json!({ "op": "echo" }))
        .invocation_type(InvocationType::Event)
        .send()
        .await?;
    Ok(json!({ "status": answer.status_code(), "payload": text(answer.payload()) }))
}

async fn failed(client: &Client) -> Outcome<Value> {
    let answer = invocation(client, json!({ "op": "exit", "n": 3 }))
        .send()
        .await?;
    Ok(json!({
        "status": answer.status_code(),
        "error": answer.function_error(),
        "payload": text(answer.payload()),
    }))
}

async fn stream(client: &Client) -> Outcome<Value> {
    let mut answer = client
        .invoke_with_response_stream()
        .function_name(NAME)
        .payload(Blob::new(
            json!({ "op": "stream", "n": 3, "m": 16 }).to_string(),
        ))
        .send()
        .await?;
    let (mut whole, mut complete) = (String::new(), None);
    while let Some(event) = answer.event_stream.recv().await? {
        match event {
            InvokeWithResponseStreamResponseEvent::PayloadChunk(chunk) => {
                whole += &text(chunk.payload()).unwrap_or_default();
            }
            InvokeWithResponseStreamResponseEvent::InvokeComplete(end) => {
                complete = Some(json!({ "error": end.error_code() }));
            }
            other => return Err(format!("an event of no known type: {other:?}").into()),
        }
    }
    Ok(json!({ "payload": whole, "complete": complete }))
}

async fn missing(client: &Client) -> Outcome<Value> {
    let asked = client.get_function().function_name("nobody").send().await;
    match asked
        .err()
        .ok_or("a function that is not there was found")?
        .into_service_error()
    {
        GetFunctionError::ResourceNotFoundException(told) => {
            Ok(json!({ "message": told.message(), "type": told.r#type() }))
        }
        other => Err(other.into()),
    }
}

async fn throttled(client: &Client) -> Outcome<Value> {
    client
        .put_function_concurrency()
        .function_name(NAME)
        .reserved_concurrent_executions(0)
        .send()
        .await?;
    let asked = invocation(client, json!({ "op": "echo" })).send().await;
    match asked
        .err()
        .ok_or("it ran without any concurrency")?
        .into_service_error()
    {
        InvokeError::TooManyRequestsException(told) => Ok(json!({
            "reason": told.reason().map(|reason| reason.as_str()),
            "after": told.retry_after_seconds(),
            "message": told.message(),
        })),
        other => Err(other.into()),
    }
}

async fn delete(client: &Client) -> Outcome<Value> {
    client.delete_function().function_name(NAME).send().await?;
    let asked = client.get_function().function_name(NAME).send().await;
    Ok(json!(asked.is_err()))
}
