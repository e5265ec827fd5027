//! A web function as `lambda_http`'s users write it: it sees a request and tells what is in it.

use lambda_http::{Body, Error, Request, RequestExt, Response, run, service_fn};
use serde_json::json;

async fn answer(request: Request) -> Result<Response<Body>, Error> {
    let body = match request.body() {
        Body::Text(text) => json!({ "text": text }),
        Body::Binary(bytes) => json!({ "bytes": bytes }),
        _ => json!(null),
    };
    let header = |name: &str| {
        let value = request.headers().get(name)?;
        Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let told = json!({
        "method": request.method().as_str(),
        "path": request.raw_http_path(),
        "words": request.query_string_parameters().all("word"),
        "said": header("x-said"),
        "cookie": header("cookie"),
        "body": body,
        "function": request.lambda_context().env_config.function_name,
    });
    Ok(Response::builder()
        .status(201)
        .header("content-type", "application/json")
        .header("x-path", request.uri().path())
        .header("set-cookie", "a=1")
        .header("set-cookie", "b=2")
        .body(told.to_string().into())?)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    run(service_fn(answer)).await
}
