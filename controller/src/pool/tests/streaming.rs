//! Tests of streamed results.

use super::super::double::CHUNK;
use super::super::{Next, Opened, Streamed};
use super::*;

impl Fixture {
    async fn open(&self, version: &Arc<Version>, event: &str) -> Opened {
        let opening = self.pool.open(invocation(version.clone(), event.into()));
        tokio::time::timeout(SOON, opening).await.unwrap().unwrap()
    }

    async fn open_stream(&self, version: &Arc<Version>, event: &str) -> Streamed {
        match self.open(version, event).await {
            Opened::Stream { content_type, rest } => {
                assert_eq!(content_type.as_deref(), Some("text/x"));
                rest
            }
            Opened::Whole(completed) => panic!("{completed:?}"),
        }
    }
}

/// Reads the whole result; returns its size in bytes and how it ended.
async fn drain(mut rest: Streamed) -> (usize, Completed) {
    let mut bytes = 0;
    loop {
        match tokio::time::timeout(SOON, rest.next()).await.unwrap() {
            Next::Chunk(chunk) => bytes += chunk.len(),
            Next::End(ended) => return (bytes, ended.unwrap()),
        }
    }
}

#[tokio::test]
async fn chunks_come_in_order_and_the_instance_serves_again() {
    let fixture = Fixture::new(SETTINGS);
    let f = fixture.version("f");
    for start in [Start::Cold, Start::Warm] {
        let rest = fixture.open_stream(&f, "stream").await;
        let (bytes, completed) = drain(rest).await;
        assert_eq!((bytes, completed.failed), (2 * CHUNK, false));
        assert_eq!((completed.start, completed.payload.len()), (start, 0));
        fixture.until("idle", |census| census.idle == 1).await;
    }
}

#[tokio::test]
async fn a_caller_that_does_not_stream_gets_the_whole_result() {
    let fixture = Fixture::new(SETTINGS);
    let f = fixture.version("f");
    let completed = fixture.run(&f, "stream").await.unwrap();
    assert_eq!(completed.payload.len(), 2 * CHUNK);
    assert_eq!(completed.content_type.as_deref(), Some("text/x"));
    let large = fixture.run(&f, "stream-long").await.unwrap();
    assert!(large.failed);
    assert!(String::from_utf8_lossy(&large.payload).contains("Function.ResponseSizeTooLarge"));
}

#[tokio::test]
async fn a_result_that_is_not_streamed_comes_whole() {
    let fixture = Fixture::new(SETTINGS);
    let f = fixture.version("f");
    for (event, failed) in [("plain", false), ("exit", true)] {
        match fixture.open(&f, event).await {
            Opened::Whole(completed) => assert_eq!(completed.failed, failed),
            Opened::Stream { .. } => panic!("{event} does not stream"),
        }
    }
}

#[tokio::test]
async fn dropping_the_caller_frees_the_instance_without_ending_it() {
    let fixture = Fixture::new(SETTINGS);
    let f = fixture.version("f");
    let mut rest = fixture.open_stream(&f, "stream-long").await;
    assert!(matches!(rest.next().await, Next::Chunk(_)));
    drop(rest);
    fixture.until("idle", |census| census.idle == 1).await;
    assert_eq!(fixture.run(&f, "one").await.unwrap().start, Start::Warm);
}

#[tokio::test]
async fn the_timeout_continues_while_the_caller_does_not_read() {
    let fixture = Fixture::new(SETTINGS);
    let f = fixture.version("f");
    let rest = fixture.open_stream(&f, "stream-flood").await;
    fixture
        .until("ended", |census| census == Census::default())
        .await;
    let (bytes, completed) = drain(rest).await;
    assert!(completed.failed);
    assert!(String::from_utf8_lossy(&completed.payload).contains("Sandbox.Timedout"));
    assert!(
        bytes <= 4 * CHUNK,
        "{bytes} bytes were kept for a client that reads none"
    );
}

#[tokio::test]
async fn a_guest_that_answers_twice_or_without_a_start_is_ended() {
    let fixture = Fixture::new(SETTINGS);
    let f = fixture.version("f");
    let rest = fixture.open_stream(&f, "stream-twice").await;
    let (bytes, completed) = drain(rest).await;
    assert_eq!((bytes, completed.failed), (CHUNK, true));
    assert!(String::from_utf8_lossy(&completed.payload).contains("a second answer"));
    match fixture.open(&f, "stream-headless").await {
        Opened::Whole(completed) => assert!(completed.failed),
        Opened::Stream { .. } => panic!("nothing was begun"),
    }
    fixture
        .until("ended", |census| census == Census::default())
        .await;
}
