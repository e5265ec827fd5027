use std::fs::File;
use std::path::Path;
use std::pin::pin;

use bytes::Bytes;
use futures_util::FutureExt;

use super::*;
use crate::logs::PAGE;

const KEPT: Kept = Kept {
    max_bytes: 1 << 20,
    max_age: Duration::from_secs(3600),
};

fn store(dir: &Path, kept: Kept) -> (LogStore, Origin) {
    let lost = IntCounter::new("lost", "lost").unwrap();
    let origin = Origin {
        incarnation: Incarnation::default(),
        function: FunctionName::parse("f").unwrap(),
        version: VersionId::Latest,
        request_id: None,
    };
    (LogStore::open(dir.into(), kept, lost).unwrap(), origin)
}

fn all() -> Query {
    Query {
        filter: Filter::default(),
        after: None,
        before: None,
        limit: 10_000,
    }
}

fn after(seq: u64, limit: usize) -> Query {
    Query {
        after: Some(seq),
        limit,
        ..all()
    }
}

fn messages(records: &[Record]) -> Vec<&str> {
    records.iter().map(|r| r.message.as_str()).collect()
}

fn size(dir: &Path) -> u64 {
    let files = fs::read_dir(dir.join("f")).unwrap();
    files.map(|f| f.unwrap().metadata().unwrap().len()).sum()
}

#[tokio::test]
async fn each_line_is_a_record_and_readers_see_what_was_appended_before() {
    let dir = tempfile::tempdir().unwrap();
    let (store, f) = store(dir.path(), KEPT);
    let invoked = Origin {
        request_id: Some("r".into()),
        version: VersionId::Number(3),
        ..f.clone()
    };
    let lines = Bytes::from_static(b"one\ntwo\xff\n");
    store.append(invoked, Kind::Function, Text::lines(lines));
    let both = Bytes::from_static(b"a\nb\n");
    store.append(f.clone(), Kind::Function, Text::whole(both));
    store.append(
        f.clone(),
        Kind::Platform,
        Text::lines(Bytes::from_static(b"START")),
    );
    let page = store.read(&f.function, all()).await.unwrap();
    let records = &page.records;
    assert_eq!(messages(records), ["one", "two\u{fffd}", "a\nb", "START"]);
    assert_eq!(records[0].request_id.as_deref(), Some("r"));
    assert_eq!(
        (&*records[0].version, &*records[3].version),
        ("3", "$LATEST")
    );
    assert!(records.windows(2).all(|pair| pair[0].seq < pair[1].seq));
}

/// The limit was a number of batches of any size. That many of a guest's largest frames are 24 GiB.
#[tokio::test]
async fn batches_that_wait_for_a_writer_that_stands_still_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let (store, f) = store(dir.path(), KEPT);
    store.append(f.clone(), Kind::Function, Text::lines(Bytes::from("first")));
    store.flush().await;
    // The writer takes this lock for each write.
    let standing_still = lock(&store.followers);
    let large = Bytes::from(vec![b'x'; QUEUE_BYTES / 16]);
    for _ in 0..32 {
        store.append(f.clone(), Kind::Function, Text::lines(large.clone()));
    }
    assert!(store.waiting.load(Ordering::Relaxed) <= QUEUE_BYTES / 2);
    // The writer may have taken a few batches before it stood still.
    let lost = store.lost.get();
    assert!((18..=24).contains(&lost), "{lost}");
    // There is room for platform events.
    let report = Text::lines(Bytes::from("REPORT"));
    store.append(f.clone(), Kind::Platform, report);
    assert_eq!(store.lost.get(), lost);
    drop(standing_still);
    store.flush().await;
    assert_eq!(store.waiting.load(Ordering::Relaxed), 0);
    store.append(f.clone(), Kind::Function, Text::lines(Bytes::from("last")));
    let page = store.read(&f.function, all()).await.unwrap();
    assert_eq!(messages(&page.records).last(), Some(&"last"));
}

/// A guest's line break is one byte, but a record of 150 bytes in the file: a megabyte of them was
/// written at once, past every limit.
#[tokio::test]
async fn line_breaks_by_the_megabyte_stay_within_a_logs_limit() {
    let dir = tempfile::tempdir().unwrap();
    let (store, f) = store(dir.path(), KEPT);
    let breaks = Bytes::from(vec![b'\n'; 1 << 20]);
    store.append(f.clone(), Kind::Function, Text::lines(breaks));
    store.flush().await;
    store.append(f.clone(), Kind::Function, Text::lines(Bytes::from("last")));
    let page = store.read(&f.function, all()).await.unwrap();
    assert_eq!(messages(&page.records).last(), Some(&"last"));
    assert!(size(dir.path()) <= KEPT.max_bytes);
    // In the queue they count with their size in the file.
    let breaks = Text::lines(Bytes::from(vec![b'\n'; 1 << 10]));
    assert!(breaks.written_size() > 100 << 10);
}

#[tokio::test]
async fn a_line_that_waits_for_the_writer_does_not_keep_its_buffer_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let (store, f) = store(dir.path(), KEPT);
    let append = |bytes| store.append(f.clone(), Kind::Function, Text::lines(bytes));
    append(Bytes::from("first"));
    store.flush().await;
    let standing_still = lock(&store.followers);
    // The second is more than the writer collects, so it does not take the next one.
    for _ in 0..2 {
        append(Bytes::from(vec![b'x'; 1 << 20]));
    }
    let came = Bytes::from(vec![b'x'; 1 << 20]);
    append(came.slice(..10));
    assert!(came.is_unique());
    drop(standing_still);
}

#[tokio::test]
async fn pages_lead_forwards_and_backwards_through_the_whole_log() {
    let dir = tempfile::tempdir().unwrap();
    let (store, f) = store(dir.path(), KEPT);
    for n in 0..50 {
        store.append(
            f.clone(),
            Kind::Function,
            Text::lines(Bytes::from(n.to_string())),
        );
    }
    let everything = store.read(&f.function, all()).await.unwrap().records;
    assert_eq!(everything.len(), 50);
    let (mut forwards, mut last) = (vec![], 0);
    loop {
        let page = store.read(&f.function, after(last, 7)).await.unwrap();
        last = page.records.last().unwrap().seq;
        forwards.extend(page.records);
        if !page.more {
            break;
        }
    }
    assert_eq!(forwards, everything);
    let (mut backwards, mut before) = (vec![], None);
    loop {
        let query = Query {
            before,
            limit: 7,
            ..all()
        };
        let page = store.read(&f.function, query).await.unwrap();
        before = page.records.first().map(|record| record.seq);
        backwards.splice(..0, page.records);
        if !page.more {
            break;
        }
    }
    assert_eq!(backwards, everything);
}

#[tokio::test]
async fn a_page_is_bounded_in_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (store, f) = store(
        dir.path(),
        Kept {
            max_bytes: 64 << 20,
            ..KEPT
        },
    );
    for _ in 0..40 {
        store.append(
            f.clone(),
            Kind::Function,
            Text::lines(Bytes::from(vec![b'x'; 250_000])),
        );
    }
    let page = store.read(&f.function, all()).await.unwrap();
    assert!(
        page.more && page.records.len() < 20,
        "{}",
        page.records.len()
    );
    let first = store.read(&f.function, after(0, PAGE)).await.unwrap();
    assert!(first.more && !first.records.is_empty());
    assert_ne!(first.records[0], page.records[0]);
}

#[tokio::test]
async fn a_log_never_grows_past_its_limit_and_keeps_the_newest() {
    let dir = tempfile::tempdir().unwrap();
    let kept = Kept {
        max_bytes: 8192,
        ..KEPT
    };
    let (store, f) = store(dir.path(), kept);
    for n in 0..200 {
        let text = format!("{n} {}", "x".repeat(100));
        store.append(f.clone(), Kind::Function, Text::lines(Bytes::from(text)));
    }
    let records = store.read(&f.function, all()).await.unwrap().records;
    assert!(records.last().unwrap().message.starts_with("199 "));
    // It uses most of its limit.
    assert!(size(dir.path()) <= 8192 && size(dir.path()) > 8192 / 2);
    assert!(records.len() < 200);
}

#[tokio::test]
async fn records_beyond_the_maximum_age_are_not_returned_and_their_files_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let hour_ago = SystemTime::now() - Duration::from_secs(7200);
    let old = Record {
        seq: 7,
        time: OffsetDateTime::from(hour_ago).format(&Rfc3339).unwrap(),
        version: "1".into(),
        request_id: None,
        kind: Kind::Function,
        message: "old".into(),
    };
    fs::create_dir(dir.path().join("f")).unwrap();
    let path = dir.path().join("f/00000000000000000007.jsonl");
    fs::write(&path, serde_json::to_string(&old).unwrap() + "\n").unwrap();
    let (store, f) = store(dir.path(), KEPT);
    store.append(
        f.clone(),
        Kind::Function,
        Text::lines(Bytes::from_static(b"new")),
    );
    let records = store.read(&f.function, all()).await.unwrap().records;
    assert_eq!(messages(&records), ["new"]);
    assert!(path.exists());
    File::open(&path).unwrap().set_modified(hour_ago).unwrap();
    segments::prune(&dir.path().join("f"), KEPT.max_age, SystemTime::now()).unwrap();
    assert!(!path.exists());
    let rest = store.read(&f.function, all()).await.unwrap().records;
    assert_eq!(messages(&rest), ["new"]);
}

#[tokio::test]
async fn a_log_goes_on_after_a_crash_in_mid_line_and_numbers_never_fall() {
    let dir = tempfile::tempdir().unwrap();
    let before = {
        let (store, f) = store(dir.path(), KEPT);
        store.append(
            f.clone(),
            Kind::Function,
            Text::lines(Bytes::from_static(b"one")),
        );
        store.read(&f.function, all()).await.unwrap().records
    };
    // As if the clock had been ahead, and the power had failed.
    let ahead = Record {
        seq: before[0].seq + 3_600_000_000,
        message: "two".into(),
        ..before[0].clone()
    };
    let file = fs::read_dir(dir.path().join("f")).unwrap().next().unwrap();
    let path = file.unwrap().path();
    let mut text = fs::read_to_string(&path).unwrap();
    text += &(serde_json::to_string(&ahead).unwrap() + "\n{\"seq\":1");
    fs::write(&path, text).unwrap();
    let (store, f) = store(dir.path(), KEPT);
    store.append(
        f.clone(),
        Kind::Function,
        Text::lines(Bytes::from_static(b"three")),
    );
    let records = store.read(&f.function, all()).await.unwrap().records;
    assert_eq!(messages(&records), ["one", "two", "three"]);
    assert!(records[2].seq > ahead.seq);
}

#[tokio::test]
async fn a_removed_log_is_gone_and_its_followers_end() {
    let dir = tempfile::tempdir().unwrap();
    let (store, f) = store(dir.path(), KEPT);
    store.append(
        f.clone(),
        Kind::Function,
        Text::lines(Bytes::from_static(b"x")),
    );
    let follow = store.follow(&f.function, Some(0), Filter::default());
    let mut follower = follow.await.unwrap().unwrap();
    let news = follower.next().await.unwrap().unwrap();
    assert_eq!(messages(&news.records), ["x"]);
    store.remove(&f.function).await;
    let page = store.read(&f.function, all()).await.unwrap();
    assert_eq!(page, Page::default());
    assert!(!dir.path().join("f").exists());
    assert_eq!(follower.next().await.unwrap(), None);
}

#[tokio::test]
async fn a_log_is_removed_even_if_the_queue_is_full() {
    let dir = tempfile::tempdir().unwrap();
    let (store, f) = store(dir.path(), KEPT);
    store.append(f.clone(), Kind::Function, Text::lines(Bytes::from("first")));
    store.flush().await;
    // The writer needs this lock after each write.
    let blocks_writer = lock(&store.followers);
    store.append(
        f.clone(),
        Kind::Function,
        Text::lines(Bytes::from("second")),
    );
    let folder = store.folder.join("f");
    while page::read(&folder, &all()).unwrap().records.len() < 2 {
        thread::sleep(Duration::from_millis(1));
    }
    // Now the writer takes nothing from the queue.
    while store.lost.get() == 0 {
        store.append(f.clone(), Kind::Platform, Text::lines(Bytes::from("line")));
    }
    let mut removed = pin!(store.remove(&f.function));
    for _ in 0..2 {
        assert_eq!(removed.as_mut().now_or_never(), None, "the queue had space");
        thread::sleep(Duration::from_millis(50));
    }
    drop(blocks_writer);
    removed.await;
    let page = store.read(&f.function, all()).await.unwrap();
    assert_eq!(page, Page::default());
}

#[tokio::test]
async fn a_follower_gets_each_record_once_also_one_that_comes_back_or_is_slow() {
    let dir = tempfile::tempdir().unwrap();
    let (store, f) = store(dir.path(), KEPT);
    let write = |from: usize| {
        for n in from..from + 300 {
            store.append(
                f.clone(),
                Kind::Function,
                Text::lines(Bytes::from(n.to_string())),
            );
        }
    };
    write(0);
    let (mut seen, mut last) = (Vec::new(), 0);
    for round in 1..4 {
        // Written while the follower does not read, and before it comes back.
        write(round * 300);
        let follow = store.follow(&f.function, Some(last), Filter::default());
        let mut follower = follow.await.unwrap().unwrap();
        while seen.len() < (round + 1) * 300 - 10 {
            let news = follower.next().await.unwrap().unwrap();
            assert!(!news.gap);
            last = news.records.last().unwrap().seq;
            seen.extend(news.records.into_iter().map(|record| record.message));
        }
    }
    let follow = store.follow(&f.function, Some(last), Filter::default());
    let mut follower = follow.await.unwrap().unwrap();
    while seen.len() < 1200 {
        let news = follower.next().await.unwrap().unwrap();
        seen.extend(news.records.into_iter().map(|record| record.message));
    }
    let expected: Vec<String> = (0..1200).map(|n| n.to_string()).collect();
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_follower_that_is_too_slow_reports_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let kept = Kept {
        max_bytes: 8192,
        ..KEPT
    };
    let (store, f) = store(dir.path(), kept);
    let line = Bytes::from(vec![b'x'; 300]);
    store.append(f.clone(), Kind::Function, Text::lines(line.clone()));
    let follow = store.follow(&f.function, Some(0), Filter::default());
    let mut follower = follow.await.unwrap().unwrap();
    assert!(!follower.next().await.unwrap().unwrap().gap);
    for _ in 0..100 {
        store.append(f.clone(), Kind::Function, Text::lines(line.clone()));
    }
    store.read(&f.function, all()).await.unwrap();
    assert!(follower.next().await.unwrap().unwrap().gap);
}

#[tokio::test]
async fn the_number_of_followers_is_limited() {
    let dir = tempfile::tempdir().unwrap();
    let (store, f) = store(dir.path(), KEPT);
    let mut followers = vec![];
    for _ in 0..MAX_FOLLOWERS {
        let follower = store.follow(&f.function, None, Filter::default()).await;
        followers.push(follower.unwrap().expect("there is room"));
    }
    let over = store.follow(&f.function, None, Filter::default()).await;
    assert!(over.unwrap().is_none());
    followers.pop();
    let again = store.follow(&f.function, None, Filter::default()).await;
    assert!(again.unwrap().is_some());
}

/// A number in a damaged line overflowed, and that ended the logs of all functions.
#[tokio::test]
async fn a_damaged_number_costs_its_line_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("f")).unwrap();
    let line = |seq: u64, message: &str| {
        format!(
            "{{\"seq\":{seq},\"time\":\"2026-12-01T00:00:00Z\",\"request_id\":null,\
             \"kind\":\"function\",\"message\":\"{message}\"}}\n"
        )
    };
    let text = line(5, "before") + &line(u64::MAX, "damaged");
    fs::write(dir.path().join("f/00000000000000000005.jsonl"), text).unwrap();
    fs::write(dir.path().join("f/18446744073709551615.jsonl"), "").unwrap();
    let (store, f) = store(dir.path(), KEPT);
    let after = Bytes::from_static(b"after\n");
    store.append(f.clone(), Kind::Function, Text::lines(after));
    let page = store.read(&f.function, all()).await.unwrap();
    // The first one is older than records are kept.
    assert_eq!(messages(&page.records), ["after"]);
    assert!(store.is_alive());
}

/// Its running call wrote into the log of the next function of that name.
#[tokio::test]
async fn a_deleted_functions_call_writes_nothing_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let (store, old) = store(dir.path(), KEPT);
    let line = |text: &'static str| Text::lines(Bytes::from_static(text.as_bytes()));
    store.append(old.clone(), Kind::Function, line("old\n"));
    old.incarnation.end();
    store.remove(&old.function).await;
    store.append(old.clone(), Kind::Function, line("late\n"));
    store.flush().await;
    assert!(!dir.path().join("f").exists());
    let new = Origin {
        incarnation: Incarnation::default(),
        ..old.clone()
    };
    store.append(new.clone(), Kind::Function, line("new\n"));
    store.append(old, Kind::Function, line("late\n"));
    let page = store.read(&new.function, all()).await.unwrap();
    assert_eq!(messages(&page.records), ["new"]);
}

#[tokio::test]
async fn lines_that_can_not_be_written_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let lost = IntCounter::new("lost", "lost").unwrap();
    let store = LogStore::open(dir.path().into(), KEPT, lost.clone()).unwrap();
    fs::write(dir.path().join("f"), "in the way").unwrap();
    let origin = Origin {
        incarnation: Incarnation::default(),
        function: FunctionName::parse("f").unwrap(),
        version: VersionId::Latest,
        request_id: None,
    };
    for _ in 0..3 {
        let line = Text::lines(Bytes::from_static(b"x\n"));
        store.append(origin.clone(), Kind::Function, line);
    }
    store.flush().await;
    assert_eq!(lost.get(), 3);
}
