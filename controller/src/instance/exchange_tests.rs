use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;

use bytes::{Bytes, BytesMut};
use hearth_protocol::agent::{Frame, Log, Ready};
use hearth_protocol::sandbox::{Command, Message, Outcome, Reply, encode};
use tokio::time::timeout;

use super::super::{RestoreFrom, SandboxProcess, init};
use super::*;
use crate::function::snapshot_files;

#[derive(Debug)]
struct NoProcess;

impl SandboxProcess for NoProcess {
    fn pid(&self) -> u32 {
        u32::MAX
    }

    fn cpu_time(&self) -> Option<Duration> {
        None
    }

    fn set_memory(&self, _: u32) {}
}

/// A microVM with the far ends of its sockets: the sandbox's and the guest's.
fn microvm() -> (MicroVm, UnixStream, UnixStream) {
    let (sandbox, control) = UnixStream::pair().unwrap();
    let (guest, agent) = UnixStream::pair().unwrap();
    let vm = MicroVm::new(control, agent, None, Box::new(NoProcess)).unwrap();
    (vm, sandbox, guest)
}

fn frames<const N: usize>(messages: [AgentMessage; N]) -> BytesMut {
    let mut bytes = BytesMut::new();
    for message in messages {
        Frame::from(message).encode(&mut bytes).unwrap();
    }
    bytes
}

fn done(id: u64) -> Vec<u8> {
    let outcome = Outcome::Done;
    encode(&Message::Reply(Reply { id, outcome })).unwrap()
}

fn pong() -> AgentMessage {
    AgentMessage::Pong(Bytes::from_static(b"x"))
}

/// Waits for a pong, with log lines allowed meanwhile.
async fn await_pong(vm: &mut MicroVm, limit: Duration) -> Result<usize, VmError> {
    let mut lines = 0;
    vm.wait_for(Deadline::after(limit, "a pong"), |_, event| {
        Ok(match event {
            VmEvent::Agent(AgentMessage::Pong(_)) => Step::Done(lines),
            VmEvent::Agent(AgentMessage::Log(..)) => {
                lines += 1;
                Step::Wait
            }
            other => Step::Unexpected(other),
        })
    })
    .await
}

fn line() -> AgentMessage {
    AgentMessage::Log(Log::default(), Bytes::from_static(b"line\n"))
}

#[tokio::test]
async fn what_is_allowed_is_passed_over_until_what_is_awaited_comes() {
    let (mut vm, _sandbox, guest) = microvm();
    (&guest)
        .write_all(&frames([line(), line(), pong()]))
        .unwrap();
    let lines = await_pong(&mut vm, Duration::from_secs(20)).await;
    assert_eq!(lines.unwrap(), 2);
}

#[tokio::test]
async fn an_event_that_is_not_allowed_is_an_error_that_names_it_and_what_was_awaited() {
    let (mut vm, _sandbox, guest) = microvm();
    (&guest).write_all(&frames([AgentMessage::Thawed])).unwrap();
    let refused = await_pong(&mut vm, Duration::from_secs(20)).await;
    let text = refused.unwrap_err().to_string();
    assert!(
        text.ends_with("the guest sent Thawed in place of a pong"),
        "{text}"
    );
}

#[tokio::test]
async fn a_deadline_that_passes_is_an_error_that_names_what_was_awaited() {
    let (mut vm, _sandbox, _guest) = microvm();
    let late = await_pong(&mut vm, Duration::from_millis(10)).await;
    let late = late.unwrap_err();
    assert!(matches!(late, VmError::Late("a pong", _)), "{late}");
}

#[tokio::test]
async fn a_guest_that_floods_messages_does_not_evade_a_deadline() {
    let (mut vm, _sandbox, guest) = microvm();
    let flood = std::thread::spawn(move || {
        let lines = frames([line(), line(), line(), line()]);
        while (&guest).write_all(&lines).is_ok() {}
    });
    let late = await_pong(&mut vm, Duration::from_millis(50));
    let late = timeout(Duration::from_secs(20), late).await.unwrap();
    let late = late.unwrap_err();
    assert!(matches!(late, VmError::Late("a pong", _)), "{late}");
    drop(vm);
    flood.join().unwrap();
}

#[tokio::test]
async fn a_deadline_can_be_replaced_by_a_later_one_during_the_wait() {
    let (mut vm, _sandbox, guest) = microvm();
    (&guest).write_all(&frames([line()])).unwrap();
    let later = Deadline::after(Duration::from_millis(20), "a pong");
    let first = Deadline::after(Duration::from_secs(20), "a line");
    let late = vm
        .wait_for(first, |_, event| {
            Ok(match event {
                VmEvent::Agent(AgentMessage::Log(..)) => Step::WaitUntil(later),
                other => Step::<()>::Unexpected(other),
            })
        })
        .await
        .unwrap_err();
    assert!(matches!(late, VmError::Late("a pong", _)), "{late}");
}

#[tokio::test]
async fn messages_that_come_during_a_command_are_there_for_the_next_wait() {
    let (mut vm, sandbox, guest) = microvm();
    (&guest).write_all(&frames([line(), pong()])).unwrap();
    (&sandbox).write_all(&done(1)).unwrap();
    let pause = Deadline::after(Duration::from_secs(20), "a pause");
    vm.command(Command::Pause, pause).await.unwrap();
    let lines = await_pong(&mut vm, Duration::from_secs(20)).await;
    assert_eq!(lines.unwrap(), 1);
}

/// Output was kept until init ended, so a function could fill the controller's memory.
#[tokio::test]
async fn output_during_init_is_passed_on_before_init_ends() {
    let (mut vm, sandbox, guest) = microvm();
    let dir = tempfile::tempdir().unwrap();
    let snapshot = snapshot_files(dir.path());
    for file in [&snapshot.state, &snapshot.memory] {
        fs::write(file, "").unwrap();
    }
    let restore = RestoreFrom {
        snapshot,
        disks: Vec::new(),
        fingerprint: String::new(),
        resume: None,
    };
    let configure = serde_json::from_value(serde_json::json!({
        "function_name": "f", "function_version": "$LATEST", "runtime": "provided",
        "handler": "h", "memory_mib": 128, "ephemeral_storage_mib": 512, "region": "r",
        "log_group": "g", "log_stream": "s", "initialization_type": "on-demand",
        "environment": {}, "bootstrap": [], "layers": false,
    }));
    (&sandbox).write_all(&done(1)).unwrap();
    let sent = frames([AgentMessage::Thawed, line()]);
    (&guest).write_all(&sent).unwrap();
    let (logged, mut log) = tokio::sync::mpsc::unbounded_channel();
    let init = init(
        &mut vm,
        restore.command().unwrap(),
        configure.unwrap(),
        Duration::from_secs(60),
        |_, text| logged.send(text).unwrap(),
        || {},
    );
    let ready = async {
        log.recv().await.unwrap();
        let ready = frames([AgentMessage::Ready(Ready::default())]);
        (&guest).write_all(&ready).unwrap();
    };
    let both = async { tokio::join!(init, ready) };
    let (init, ()) = timeout(Duration::from_secs(20), both).await.unwrap();
    init.unwrap().result.unwrap();
}

/// All messages were read before any other task could run, including the timers of timeouts.
#[tokio::test]
async fn a_guest_that_floods_messages_does_not_block_other_tasks() {
    let (mut vm, _sandbox, guest) = microvm();
    let mut sent = BytesMut::new();
    for _ in 0..1000 {
        sent.extend_from_slice(&frames([AgentMessage::Thawed]));
    }
    (&guest).write_all(&sent).unwrap();
    // This reads all bytes.
    vm.next().await.unwrap();
    let other = tokio::spawn(async {});
    for _ in 1..1000 {
        vm.next().await.unwrap();
    }
    assert!(other.is_finished());
}

/// 256 messages of 6 MiB each were kept.
#[tokio::test]
async fn messages_during_a_command_are_limited_in_bytes_and_not_part_of_the_error() {
    let (mut vm, _sandbox, guest) = microvm();
    let large = || AgentMessage::Pong(Bytes::from(vec![b'x'; 4 << 20]));
    let sent = frames([large(), large()]);
    let sender = std::thread::spawn(move || (&guest).write_all(&sent));
    let pause = Deadline::after(Duration::from_secs(60), "a pause");
    let refused = vm.command(Command::Pause, pause).await.unwrap_err();
    assert!(matches!(refused, VmError::Unexpected(_)), "{refused}");
    drop(vm);
    // The write may have succeeded or failed.
    let _ = sender.join().unwrap();
    let unasked = unexpected(VmEvent::Agent(large()), "a reply").to_string();
    assert!(unasked.len() < 100 && unasked.contains("Pong"), "{unasked}");
}
