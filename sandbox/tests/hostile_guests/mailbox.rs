//! Hostile inputs 48 to 54: the mailbox, rung and registered in every wrong way; and what a
//! controller can do while a guest keeps its vCPU's thread in the middle of an exchange.

use std::io::Read;
use std::os::unix::net::UnixStream;

use hearth_protocol::mailbox::{
    ANSWER_GOES_ON, COMMAND, COMMAND_AGENT, COMMAND_EVENT, COMMAND_LOOK, COMMAND_WAIT, DATA_SIZE,
    DOORBELL_ANSWER, DOORBELL_IDLE, DOORBELL_LOG, DOORBELL_MORE, DOORBELL_NOTHING, DOORBELL_OFFER,
    DOORBELL_PORT, DOORBELL_TAKEN, DOORBELL_WAIT, EVENT_BODY, FRAMES, HEAD, KIND_ERROR,
    KIND_RESPONSE, LOG_LEN, LOG_SIZE, MAX_META, PAGES, REGISTER_PORT,
};
use hearth_protocol::sandbox::{Command, Event, ExitReason, Resume, State};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::assembler::Width;
use crate::attack::{Attack, attack, rests, stays, withstand};
use crate::doorbell::{FRAME, HEADER, frames, give, release};
use crate::driver::{Attacker, RAM};
use crate::support::{Guest, Sandbox};

const NOT_HEARD: u32 = 0x5555_5555;
const LAST: u64 = RAM / 4096 - 1;

/// An attack that ends the microVM with this message.
const fn ends(what: &'static str, says: &'static str, guest: fn(&mut Attacker)) -> Attack {
    attack(what, says, guest).ends(ExitReason::InternalError)
}

/// Reads this many bytes of what the guest sends.
fn receive(sandbox: &mut Sandbox, count: usize) {
    sandbox.mailbox.read_exact(&mut vec![0; count]).unwrap();
}

/// Receives an empty answer and sends an event whose second chunk is five bytes.
fn give_two_chunks(sandbox: &mut Sandbox) {
    receive(sandbox, HEAD);
    let size = DATA_SIZE + 5;
    give(sandbox, 0, u32::try_from(size).unwrap(), &vec![7; size]);
}

/// A guest that has sent an answer and received an event.
fn with_event(a: &mut Attacker) {
    a.mailbox();
    a.answer(KIND_RESPONSE, 0, 0, 0);
    a.ring(DOORBELL_ANSWER);
    a.header_is(COMMAND, COMMAND_EVENT, "an event is there");
}

/// A guest in the middle of an answer of two chunks.
fn in_an_answer(a: &mut Attacker) {
    a.mailbox();
    a.answer(KIND_ERROR, 0, u32::try_from(DATA_SIZE).unwrap() + 1, 0);
    a.ring(DOORBELL_MORE);
}

#[test]
fn pages_that_are_no_memory() {
    const NO: &str = "of a mailbox is not in the guest's memory";
    withstand(&[
        ends("a header behind the end", NO, |a| a.register(LAST + 1)),
        ends("a header past everything", NO, |a| a.register(0xffff_ffff)),
        ends("a header among the devices", NO, |a| a.register(0xd_0000)),
        ends("a page behind the end", NO, |a| {
            a.name_pages(&[vec![LAST; PAGES - 1], vec![LAST + 1]].concat());
            a.register(FRAME);
        }),
        ends("a page past all addresses", NO, |a| {
            a.name_pages(&[FRAME, u64::MAX]);
            a.register(FRAME);
        }),
        ends("a page whose address wraps to one that is RAM", NO, |a| {
            a.name_pages(&[FRAME, (1 << 52) + FRAME]);
            a.register(FRAME);
        }),
        attack("the last page, whose pages are all the first", "", |a| {
            a.register(LAST);
        }),
        attack("in other widths", "", |a| {
            a.code.out(Width::Byte, REGISTER_PORT, 0xff);
            a.code.out(Width::Word, REGISTER_PORT, 0xffff);
            a.code.out_string(REGISTER_PORT, HEADER, 64);
            for port in REGISTER_PORT..DOORBELL_PORT + 4 {
                a.code.input(Width::Double, port);
            }
        }),
    ]);
}

#[test]
fn rings_without_a_mailbox() {
    withstand(&[attack("every value", "", |a| {
        a.name_pages(&frames());
        a.write_header(COMMAND, NOT_HEARD);
        for value in (0..20).chain([0xffff, u32::MAX]) {
            for width in [Width::Byte, Width::Word, Width::Double] {
                a.code.out(width, DOORBELL_PORT, value);
            }
        }
        a.code.out_string(DOORBELL_PORT, HEADER, 64);
        a.header_is(COMMAND, NOT_HEARD, "no mailbox is registered");
    })]);
}

#[test]
fn rings_in_the_wrong_state() {
    withstand(&[
        attack("that mean nothing", "", |a| {
            a.mailbox();
            a.write_header(COMMAND, NOT_HEARD);
            for value in [DOORBELL_NOTHING, DOORBELL_IDLE, 8, 0xffff, u32::MAX] {
                a.ring(value);
            }
            a.header_is(COMMAND, NOT_HEARD, "nothing came of it");
            a.ring(DOORBELL_OFFER);
            a.header_is(COMMAND, COMMAND_LOOK, "a kernel that ran may have written");
        }),
        ends("taken without an event", "rang 3", |a| {
            a.mailbox();
            a.ring(DOORBELL_TAKEN);
        }),
        ends("more, of an answer that has no more", "rang 2", |a| {
            a.mailbox();
            a.answer(KIND_RESPONSE, 0, 1, 0);
            a.ring(DOORBELL_MORE);
        }),
        ends("an end that is none", "rang 1", |a| {
            a.mailbox();
            a.answer(KIND_RESPONSE, 0, u32::try_from(DATA_SIZE).unwrap() + 1, 0);
            a.ring(DOORBELL_ANSWER);
        }),
        ends("output in an answer", "rang 4", |a| {
            in_an_answer(a);
            a.ring(DOORBELL_LOG);
        }),
        ends("taken in an answer", "rang 3", |a| {
            in_an_answer(a);
            a.ring(DOORBELL_TAKEN);
        }),
        ends("a wait in an answer", "rang 7", |a| {
            in_an_answer(a);
            a.ring(DOORBELL_WAIT);
        }),
        ends("a wait in an event", "rang 7", |a| {
            with_event(a);
            a.ring(DOORBELL_WAIT);
        })
        .with_host(give_two_chunks),
        ends("an answer in an event", "rang 1", |a| {
            with_event(a);
            a.ring(DOORBELL_ANSWER);
        })
        .with_host(give_two_chunks),
        ends("taken once too often", "rang 3", |a| {
            with_event(a);
            a.ring(DOORBELL_TAKEN);
            a.ring(DOORBELL_TAKEN);
        })
        .with_host(give_two_chunks),
    ]);
}

#[test]
fn lengths_that_lie() {
    const NO: &str = "at the mailbox";
    withstand(&[
        ends("headers", NO, |a| {
            a.mailbox();
            a.answer(KIND_RESPONSE, u32::try_from(MAX_META).unwrap() + 1, 0, 0);
            a.ring(DOORBELL_ANSWER);
        }),
        ends("a body", NO, |a| {
            a.mailbox();
            a.answer(KIND_RESPONSE, 0, 0x7fff_ffff, 0);
            a.ring(DOORBELL_MORE);
        }),
        ends("a sum past 2^32", NO, |a| {
            a.mailbox();
            a.answer(KIND_ERROR, u32::MAX, u32::MAX, u32::MAX);
            a.ring(DOORBELL_ANSWER);
        }),
        ends("an answer's output", NO, |a| {
            a.mailbox();
            a.answer(KIND_RESPONSE, 0, 0, u32::try_from(LOG_SIZE).unwrap() + 1);
            a.ring(DOORBELL_ANSWER);
        }),
        ends("output alone", "rang 4", |a| {
            a.mailbox();
            a.write_header(LOG_LEN, u32::MAX);
            a.ring(DOORBELL_LOG);
        }),
        ends("an answer of no kind", NO, |a| {
            a.mailbox();
            a.answer(0xdead_beef, 0, 0, 0);
            a.ring(DOORBELL_ANSWER);
        }),
    ]);
}

#[test]
fn answers_unasked_and_pages_that_change() {
    withstand(&[
        attack("answers to nothing, as many as are heard", "", |a| {
            a.mailbox();
            for _ in 0..3 {
                a.answer(KIND_RESPONSE, 0, 0, 0);
                a.ring(DOORBELL_ANSWER);
                a.header_is(COMMAND, COMMAND_AGENT, "let run");
            }
        })
        .with_host(|sandbox| {
            for _ in 0..3 {
                receive(sandbox, HEAD);
                release(sandbox);
            }
        }),
        attack(
            "answers that go on, and waits, as many as are heard",
            "",
            |a| {
                a.mailbox();
                a.write_header(ANSWER_GOES_ON, u32::MAX);
                for _ in 0..3 {
                    a.answer(KIND_RESPONSE, 0, 0, 0);
                    a.ring(DOORBELL_ANSWER);
                    a.header_is(COMMAND, COMMAND_WAIT, "goes on");
                }
                for _ in 0..3 {
                    a.ring(DOORBELL_WAIT);
                    a.header_is(COMMAND, COMMAND_AGENT, "let run");
                }
            },
        )
        .with_host(|sandbox| {
            receive(sandbox, 3 * HEAD);
            for _ in 0..3 {
                receive(sandbox, HEAD);
                release(sandbox);
            }
        }),
        attack("scribbling over the header between rings", "", |a| {
            with_event(a);
            for field in (FRAMES..FRAMES + 8 * PAGES).step_by(4) {
                a.write_header(field, u32::MAX);
            }
            a.write_header(COMMAND, u32::MAX);
            a.write_header(EVENT_BODY, u32::MAX);
            a.ring(DOORBELL_TAKEN);
            a.header_is(COMMAND, u32::MAX, "the guest's affair");
            a.answer(KIND_RESPONSE, 0, 0, 0);
            a.ring(DOORBELL_ANSWER);
            a.header_is(COMMAND, COMMAND_AGENT, "let run");
        })
        .with_host(|sandbox| {
            give_two_chunks(sandbox);
            receive(sandbox, HEAD);
            release(sandbox);
        }),
        attack("registering again between exchanges", "", |a| {
            with_event(a);
            a.ring(DOORBELL_TAKEN);
            a.register(FRAME);
            a.register(FRAME);
        })
        .with_host(give_two_chunks),
        ends("registering again in an answer", "registered", |a| {
            in_an_answer(a);
            a.register(FRAME);
        }),
        ends("registering again in an event", "registered", |a| {
            with_event(a);
            a.register(FRAME);
        })
        .with_host(give_two_chunks),
    ]);
}

#[test]
fn pages_over_each_other_and_over_what_the_guest_needs() {
    withstand(&[
        attack("the header for everything", "", |a| {
            a.name_pages(&[FRAME; PAGES]);
            a.register(FRAME);
            a.answer(KIND_RESPONSE, 0, 0, 0);
            a.ring(DOORBELL_ANSWER);
            a.header_is(COMMAND, COMMAND_EVENT, "what the host says comes last");
            a.ring(DOORBELL_TAKEN);
        })
        .with_host(give_two_chunks),
        attack("events over the guest's page tables", "", |a| {
            let mut frames = frames();
            frames[3..].fill(9);
            a.name_pages(&frames);
            a.register(FRAME);
            a.answer(KIND_RESPONSE, 0, 0, 0);
            a.ring(DOORBELL_ANSWER);
            a.code.put(&[0x0f, 0x20, 0xd8, 0x0f, 0x22, 0xd8]); // mov rax, cr3; mov cr3, rax
        })
        .with_host(give_two_chunks)
        .ends(ExitReason::TripleFault),
    ]);
}

/// As an operator, a debugger or a suspend of the host may do. The kernel resumes an interrupted
/// wait by a system call of its own (`restart_syscall`).
#[test]
fn a_process_that_was_stopped_and_continued_goes_on() {
    withstand(&[
        attack("while the guest waits", "", with_event).with_host(|sandbox| {
            receive(sandbox, HEAD);
            let threads = [sandbox.pid(), vcpu_thread(sandbox)];
            let pid = Pid::from_raw(sandbox.pid().cast_signed());
            let all = |state| {
                for thread in threads {
                    stays(sandbox.pid(), thread, state);
                }
            };
            all('S');
            kill(pid, Signal::SIGSTOP).unwrap();
            all('T');
            kill(pid, Signal::SIGCONT).unwrap();
            all('S');
            give(sandbox, 0, 3, b"abc");
        }),
    ]);
}

#[test]
fn controllers_that_close_or_cut_an_event_short() {
    let closed: fn(&mut Sandbox) = |sandbox| {
        receive(sandbox, HEAD);
        sandbox.mailbox = UnixStream::pair().unwrap().0;
    };
    withstand(&[
        ends("while the guest waits", "closed", with_event).with_host(closed),
        ends("in an event", "closed", with_event).with_host(|sandbox| {
            receive(sandbox, HEAD);
            give(sandbox, 0, 100, &[1; 99]);
            sandbox.mailbox = UnixStream::pair().unwrap().0;
        }),
        ends("in an answer", "the mailbox's socket", |a| {
            in_an_answer(a);
            a.code.pass_time();
            a.ring(DOORBELL_ANSWER);
        })
        .with_host(|sandbox| {
            receive(sandbox, HEAD + DATA_SIZE);
            sandbox.mailbox = UnixStream::pair().unwrap().0;
        }),
    ]);
}

/// A microVM whose guest runs this program, after the controller has done that.
fn run(guest: fn(&mut Attacker), host: fn(&mut Sandbox)) -> (Guest, Sandbox) {
    let mut attacker = Attacker::new();
    guest(&mut attacker);
    let guest = Guest::new(&attacker.code.finish().0);
    let mut sandbox = guest.run();
    host(&mut sandbox);
    (guest, sandbox)
}

fn vcpu_thread(sandbox: &Sandbox) -> u32 {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", sandbox.pid())).unwrap();
    let threads = tasks.map(|task| task.unwrap().file_name().into_string().unwrap());
    let mut others = threads.filter_map(|id| id.parse().ok().filter(|id| *id != sandbox.pid()));
    others.next().unwrap()
}

/// Memory of the process that belongs to no file, in KiB: guest memory and the heap.
fn anonymous_memory(sandbox: &Sandbox) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", sandbox.pid())).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let number = line.unwrap().trim().trim_end_matches(" kB");
    number.parse().unwrap()
}

/// What a controller can do with a guest that keeps its vCPU's thread: commands are answered, or
/// the sandbox has ended with a reason.
fn can_be_stopped(guest: fn(&mut Attacker), host: fn(&mut Sandbox), paused: bool) {
    let start = || {
        let (guest, sandbox) = run(guest, host);
        rests(sandbox.pid(), vcpu_thread(&sandbox));
        rests(sandbox.pid(), sandbox.pid());
        let kib = anonymous_memory(&sandbox);
        assert!(kib < 16 * 1024, "{kib} KiB");
        (guest, sandbox)
    };
    let (_guest, mut sandbox) = start();
    sandbox.status();
    sandbox.send(Command::Kill);
    assert_eq!(sandbox.end().1.reason, ExitReason::Killed);

    let (_guest, mut sandbox) = start();
    sandbox.abandon();
    assert_eq!(sandbox.end().1.reason, ExitReason::OwnerGone);

    let (_guest, mut sandbox) = start();
    if paused {
        sandbox.done(Command::Pause);
        assert_eq!(sandbox.status().state, State::Paused);
        sandbox.done(Command::Resume(Resume::default()));
        sandbox.done(Command::Pause);
        sandbox.send(Command::Kill);
        assert_eq!(sandbox.end().1.reason, ExitReason::Killed);
        return;
    }
    sandbox.send(Command::Pause);
    let Event::Exited(exited) = sandbox.event() else {
        panic!("an end was due")
    };
    assert_eq!(exited.reason, ExitReason::InternalError);
    assert!(exited.detail.contains("in the middle"), "{}", exited.detail);
    assert_eq!(sandbox.end().0, i32::from(exited.reason.code()));
}

/// `jmp $`
const SPIN: &[u8] = &[0xeb, 0xfe];

#[test]
fn a_storm_of_rings_at_a_controller_that_does_not_read_can_be_stopped() {
    let storm = |a: &mut Attacker| {
        a.mailbox();
        a.write_header(LOG_LEN, u32::try_from(LOG_SIZE).unwrap());
        a.code.repeat(u32::MAX, |code| {
            code.out(Width::Double, DOORBELL_PORT, DOORBELL_LOG);
        });
    };
    can_be_stopped(storm, |sandbox| receive(sandbox, HEAD), false);
}

#[test]
fn a_guest_whose_event_never_comes_whole_can_be_stopped() {
    can_be_stopped(
        with_event,
        |sandbox| {
            receive(sandbox, HEAD);
            give(sandbox, 0, 100, &[1; 50]);
        },
        false,
    );
}

#[test]
fn a_guest_that_waits_for_an_event_can_be_stopped() {
    let answers = |a: &mut Attacker| {
        with_event(a);
        a.code.put(SPIN);
    };
    can_be_stopped(answers, |sandbox| receive(sandbox, HEAD), true);
}

#[test]
fn a_guest_that_never_answers_its_event_can_be_stopped() {
    let (_guest, mut sandbox) = run(
        |a| {
            with_event(a);
            a.code.put(SPIN);
        },
        |sandbox| {
            receive(sandbox, HEAD);
            give(sandbox, 0, 3, b"abc");
        },
    );
    for _ in 0..20 {
        sandbox.done(Command::Pause);
        sandbox.done(Command::Resume(Resume::default()));
    }
    sandbox.done(Command::Pause);
    assert_eq!(sandbox.status().state, State::Paused);
    sandbox.send(Command::Kill);
    assert_eq!(sandbox.end().1.reason, ExitReason::Killed);
}
