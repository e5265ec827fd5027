//! Streams a result of as many chunks as the event asks for, behind what it drew: from a generator
//! that is seeded when the program starts, and again after each restore.

use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lambda_runtime::streaming::{Body, Response, channel};
use lambda_runtime::{BoxFuture, Error, LambdaEvent, Runtime, SnapStartResource, service_fn};
use serde_json::{Value, json};

/// What it draws from: not random, so that two instances of one snapshot draw the same.
#[derive(Default)]
struct Generator {
    state: AtomicU64,
    before: AtomicU64,
    after: AtomicU64,
}

impl Generator {
    fn draw(&self) -> u64 {
        let old = self.state.load(Ordering::Relaxed);
        let new = old.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        self.state.store(new, Ordering::Relaxed);
        new
    }
}

impl SnapStartResource for Generator {
    fn before_snapshot(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async {
            self.before.fetch_add(1, Ordering::Relaxed);
            Ok(())
        })
    }

    fn after_restore(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async {
            let mut seed = [0; 8];
            File::open("/dev/urandom")?.read_exact(&mut seed)?;
            self.state
                .store(u64::from_ne_bytes(seed), Ordering::Relaxed);
            self.after.fetch_add(1, Ordering::Relaxed);
            Ok(())
        })
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let generator = Arc::new(Generator::default());
    let resource = generator.clone();
    Runtime::new(service_fn(move |event| answer(generator.clone(), event)))
        .register_snapstart_resource(resource)
        .run()
        .await
}

async fn answer(
    generator: Arc<Generator>,
    event: LambdaEvent<Value>,
) -> Result<Response<Body>, Error> {
    let (mut sender, body) = channel();
    let drawn = json!({
        "draw": generator.draw(),
        "before": generator.before.load(Ordering::Relaxed),
        "after": generator.after.load(Ordering::Relaxed),
        "kind": std::env::var("AWS_LAMBDA_INITIALIZATION_TYPE")?,
    });
    let chunks = event.payload["chunks"].as_u64().unwrap_or(0);
    tokio::spawn(async move {
        let mut sent = sender.send_data(format!("{drawn}\n").into()).await;
        for number in 0..chunks {
            if sent.is_err() {
                return;
            }
            sent = sender.send_data(format!("chunk {number}\n").into()).await;
        }
    });
    Ok(Response::from(body))
}
