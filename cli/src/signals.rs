//! SIGINT and SIGTERM. A server ends in order. A command that waits for something in the controller says
//! that it goes on there, and ends.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::signal::unix::{SignalKind, signal};

use crate::output::Output;

/// What a shell reports for a program that SIGINT ended.
const INTERRUPTED: i32 = 128 + 2;

/// From its creation until the process ends, SIGINT ends the process with the last words that were set.
#[derive(Debug, Clone)]
pub(crate) struct LastWords(Arc<Mutex<String>>);

impl LastWords {
    /// Without a thread to wait for the signal it ends the process without words, as it does otherwise.
    pub(crate) fn new(text: String, output: Output) -> Self {
        let words = Self(Arc::new(Mutex::new(text)));
        let shared = words.clone();
        let thread = std::thread::Builder::new().name("interrupt".to_owned());
        // As said above: there is nothing to be done about a thread that can't be had.
        let _ = thread.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .build();
            let Ok(runtime) = runtime else {
                return;
            };
            if runtime.block_on(tokio::signal::ctrl_c()).is_ok() {
                output.note(&format!("\n{}", shared.text()));
                std::process::exit(INTERRUPTED);
            }
        });
        words
    }

    /// Other words from now on.
    pub(crate) fn set(&self, text: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }

    fn text(&self) -> String {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Completes at SIGTERM or SIGINT. From its creation on neither ends the process by itself.
pub(crate) fn told_to_end() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
