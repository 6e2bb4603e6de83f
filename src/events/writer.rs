//! Writes events as lines, without repetition.
//!
//! Owns the forms and the memory of what was said lately (bounded). Time comes with the events and
//! as an argument.

use super::{Event, Format, Level, Said};
use crate::base::time::Wall;
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Duration;

/// The same warning or alarm is written once in this time.
const QUIET: Duration = Duration::from_secs(60);
/// Different ones that are remembered.
const REMEMBERED_MAX: usize = 256;
/// Bytes of a text that are written.
const TEXT_MAX: usize = 2000;
/// After what there was has been written, the next is waited for this long without listening: many events in
/// a row wake the writer once. Who sends would pay for each waking, and a mail core may have to send a
/// thousand failed logins a second.
const GATHER: Duration = Duration::from_millis(5);
/// What has been handed to the file is there after at most so many times of gathering: until then more may
/// come, and much is cheaper to write at once.
const ROUNDS_MAX: u32 = 6;
/// Or after this long in which nothing came.
const HELD: Duration = Duration::from_millis(10);
/// Bytes of lines that are written at once.
const LINES_MAX: usize = 64 << 10;

pub(super) struct Writer {
    out: Box<dyn Write + Send>,
    format: Format,
    pid: u32,
    dropped: Arc<AtomicU64>,
    reported: u64,
    /// Last time written and how often suppressed since, by name, core and text.
    said: BTreeMap<(&'static str, Option<u16>, String), (Event, u64)>,
    /// Lines of events, to be written.
    lines: Vec<u8>,
    /// Times of gathering since something was written that may not have reached its place.
    rounds: Option<u32>,
}

impl Writer {
    pub(super) fn new(out: Box<dyn Write + Send>, format: Format, pid: u32, dropped: Arc<AtomicU64>) -> Self {
        Writer {
            out,
            format,
            pid,
            dropped,
            reported: 0,
            said: BTreeMap::new(),
            lines: Vec::new(),
            rounds: None,
        }
    }

    /// Writes until all senders are gone.
    #[allow(clippy::disallowed_methods, reason = "sleeps in a thread of its own, for which no core waits")]
    pub(super) fn run(&mut self, from: &Receiver<Said>, clock: fn() -> Wall) {
        let mut next = from.recv_timeout(Duration::from_secs(1));
        loop {
            match next {
                Ok(Said::Event(event)) => self.take(event),
                Ok(Said::Mail { mut bytes, lost, core, back }) => {
                    self.mail(&bytes, lost, core, clock());
                    bytes.clear();
                    // The log may have ended.
                    let _ = back.try_send(bytes);
                }
                Err(RecvTimeoutError::Timeout) => self.forget(clock()),
                Ok(Said::End) | Err(RecvTimeoutError::Disconnected) => break,
            }
            next = match from.try_recv() {
                Ok(said) => Ok(said),
                Err(TryRecvError::Disconnected) => Err(RecvTimeoutError::Disconnected),
                Err(TryRecvError::Empty) => {
                    self.put();
                    std::thread::sleep(GATHER);
                    self.next(from)
                }
            };
        }
        self.forget(Wall(u64::MAX));
        self.put();
        self.flush();
    }

    /// What comes next; what has been written until now has reached its place in time.
    fn next(&mut self, from: &Receiver<Said>) -> Result<Said, RecvTimeoutError> {
        if let Some(rounds) = self.rounds {
            self.rounds = Some(rounds + 1);
            if rounds < ROUNDS_MAX {
                match from.recv_timeout(HELD) {
                    Err(RecvTimeoutError::Timeout) => {}
                    said => return said,
                }
            }
            self.flush();
        }
        from.recv_timeout(Duration::from_secs(1))
    }

    /// Writes the lines of events that have gathered.
    fn put(&mut self) {
        if !self.lines.is_empty() {
            // Nobody to tell: the place for telling is what fails.
            let _ = self.out.write_all(&self.lines);
            self.lines.clear();
            self.rounds.get_or_insert(0);
        }
    }

    fn flush(&mut self) {
        // Nobody to tell: the place for telling is what fails.
        let _ = self.out.flush();
        self.rounds = None;
    }

    fn mail(&mut self, lines: &[u8], lost: u64, core: u16, at: Wall) {
        if lost > 0 {
            let text = format!("{lost} records of mail were not written: the writer was behind");
            self.write(&Event { level: Level::Warn, name: "mail_log_lost", text, core: Some(core), at }, 0);
        }
        self.put();
        // Nobody to tell: the place for telling is what fails.
        let _ = self.out.write_all(lines);
        self.rounds.get_or_insert(0);
    }

    fn take(&mut self, event: Event) {
        let now = event.at;
        self.report_dropped(now);
        if event.level == Level::Info {
            self.write(&event, 0);
            return;
        }
        self.forget(now);
        let key = (event.name, event.core, event.text.clone());
        if let Some((_, repeated)) = self.said.get_mut(&key) {
            *repeated += 1;
            return;
        }
        self.write(&event, 0);
        if self.said.len() < REMEMBERED_MAX {
            self.said.insert(key, (event, 0));
        }
    }

    /// Forgets what was said over a minute ago; says how often it came again.
    fn forget(&mut self, now: Wall) {
        self.report_dropped(now);
        let old = |e: &Event| now.since(e.at) >= QUIET || now < e.at;
        let due: Vec<_> = self.said.iter().filter(|(_, (e, _))| old(e)).map(|(k, _)| k.clone()).collect();
        for key in due {
            let Some((mut event, repeated)) = self.said.remove(&key) else { continue };
            if repeated > 0 {
                event.at = if now.0 == u64::MAX { event.at } else { now };
                self.write(&event, repeated);
                // It goes on: stay quiet for another minute.
                self.said.insert(key, (event, 0));
            }
        }
    }

    fn report_dropped(&mut self, now: Wall) {
        let dropped = self.dropped.load(Ordering::Relaxed);
        if dropped > self.reported && now.0 != u64::MAX {
            let text = format!("{} events were dropped: their writer was behind", dropped - self.reported);
            self.reported = dropped;
            self.write(&Event { level: Level::Warn, name: "events_dropped", text, core: None, at: now }, 0);
        }
    }

    fn write(&mut self, event: &Event, repeated: u64) {
        // Writing to a Vec cannot fail.
        match self.format {
            Format::Json => self.json(event, repeated),
            Format::Text => {
                let _ = write!(self.lines, "{} ", event.at);
                self.text(event, repeated);
            }
            Format::Journald => {
                // sd-daemon(3): 6 informational, 4 warning, 1 alert.
                let priority = match event.level {
                    Level::Info => 6,
                    Level::Warn => 4,
                    Level::Alarm => 1,
                };
                let _ = write!(self.lines, "<{priority}>");
                self.text(event, repeated);
            }
        }
        self.lines.push(b'\n');
        if self.lines.len() >= LINES_MAX {
            self.put();
        }
    }

    fn json(&mut self, event: &Event, repeated: u64) {
        // In the order of the names. Made in place: there is one for each login.
        self.lines.push(b'{');
        if let Some(core) = event.core {
            let _ = write!(self.lines, "\"core\":{core},");
        }
        let _ = write!(self.lines, "\"event\":\"{}\",\"level\":\"{}\"", event.name, word(event.level));
        if repeated > 0 {
            let _ = write!(self.lines, ",\"repeated\":{repeated}");
        }
        self.lines.extend_from_slice(b",\"text\":");
        let _ = serde_json::to_writer(&mut self.lines, short(&event.text));
        let _ = write!(self.lines, ",\"time\":\"{}\"}}", event.at);
    }

    fn text(&mut self, event: &Event, repeated: u64) {
        let word = match event.level {
            Level::Info => "",
            Level::Warn => "warning: ",
            Level::Alarm => "fatal: ",
        };
        let text: String = short(&event.text)
            .chars()
            .map(|c| if c.is_control() { c.escape_default().to_string() } else { c.into() })
            .collect();
        let _ = write!(self.lines, "ringpost[{}]: {word}{}: {text}", self.pid, event.name);
        if let Some(core) = event.core {
            let _ = write!(self.lines, " core={core}");
        }
        if repeated > 0 {
            let _ = write!(self.lines, " (repeated {repeated} times)");
        }
    }
}

fn word(level: Level) -> &'static str {
    match level {
        Level::Info => "info",
        Level::Warn => "warning",
        Level::Alarm => "alarm",
    }
}

fn short(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_MAX)]
}

/// An event as each form of file has it: JSON, text.
#[cfg(test)]
pub(super) fn lines(name: &'static str, text: &str) -> [String; 2] {
    [Format::Json, Format::Text].map(|format| {
        let mut w = Writer::new(Box::new(std::io::sink()), format, 9, Arc::default());
        w.take(Event { level: Level::Info, name, text: text.into(), core: Some(2), at: Wall(1000) });
        String::from_utf8(w.lines).expect("events are UTF-8").trim_end().to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::super::Events;
    use super::*;
    use std::sync::Mutex;

    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Write for Paper {
        fn write(&mut self, b: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(b)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Paper {
        fn lines(&self) -> Vec<String> {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap().lines().map(String::from).collect()
        }
    }

    fn event(level: Level, text: &str, seconds: u64) -> Event {
        Event { level, name: "test", text: text.into(), core: Some(2), at: Wall(seconds * 1000) }
    }

    fn writer(format: Format) -> (Writer, Paper) {
        let paper = Paper::default();
        (Writer::new(Box::new(paper.clone()), format, 9, Arc::default()), paper)
    }

    #[test]
    fn forms() {
        let (mut w, paper) = writer(Format::Json);
        w.take(event(Level::Alarm, "disk \"x\"\r\nforged", 1));
        w.put();
        let line: serde_json::Value = serde_json::from_str(&paper.lines()[0]).unwrap();
        assert_eq!((line["level"].as_str(), line["event"].as_str()), (Some("alarm"), Some("test")));
        assert_eq!((line["core"].as_u64(), line["text"].as_str()), (Some(2), Some("disk \"x\"\r\nforged")));
        assert_eq!(line["time"], "1970-01-01T00:00:01.000Z");
        w.write(&event(Level::Info, "x", 1), 0);
        w.write(&Event { core: None, ..event(Level::Warn, "", 1) }, 3);
        w.put();
        let start =
            r#"{"core":2,"event":"test","level":"info","text":"x","time":"1970-01-01T00:00:01.000Z"}"#;
        let other =
            r#"{"event":"test","level":"warning","repeated":3,"text":"","time":"1970-01-01T00:00:01.000Z"}"#;
        assert_eq!(paper.lines()[1..], [start, other]);
        let (mut w, paper) = writer(Format::Journald);
        w.take(event(Level::Warn, "a\nb\u{1b}", 1));
        w.put();
        assert_eq!(paper.lines(), ["<4>ringpost[9]: warning: test: a\\nb\\u{1b} core=2"]);
    }

    #[test]
    fn repetition_is_counted_not_written() {
        let (mut w, paper) = writer(Format::Text);
        for second in 0..50 {
            w.take(event(Level::Alarm, "same", second));
        }
        w.take(event(Level::Alarm, "other", 50));
        w.put();
        assert_eq!(paper.lines().len(), 2);
        w.forget(Wall(61_000));
        w.put();
        assert!(paper.lines()[2].ends_with("same core=2 (repeated 49 times)"), "{:?}", paper.lines());
        w.take(event(Level::Alarm, "same", 62));
        w.put();
        assert_eq!(paper.lines().len(), 3);
        w.take(event(Level::Info, "i", 63));
        w.take(event(Level::Info, "i", 63));
        w.put();
        assert_eq!(paper.lines().len(), 5);
    }

    #[test]
    fn memory_is_bounded() {
        let (mut w, paper) = writer(Format::Text);
        for n in 0..1000 {
            w.take(event(Level::Warn, &n.to_string(), 1));
        }
        w.put();
        assert_eq!((w.said.len(), paper.lines().len()), (REMEMBERED_MAX, 1000));
        w.take(event(Level::Warn, &"x".repeat(10_000), 1));
        w.put();
        assert!(paper.lines()[1000].len() < TEXT_MAX + 200);
    }

    /// A thousand events in a row, before the writer looks, are one write.
    #[test]
    fn what_has_gathered_is_written_at_once() {
        #[derive(Clone, Default)]
        struct Counts(Arc<Mutex<Vec<usize>>>);
        impl Write for Counts {
            fn write(&mut self, b: &[u8]) -> std::io::Result<usize> {
                self.0.lock().unwrap().push(b.iter().filter(|b| **b == b'\n').count());
                Ok(b.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let (to, from) = std::sync::mpsc::sync_channel(1000);
        for n in 0..1000 {
            to.try_send(Said::Event(event(Level::Info, &"x".repeat(n % 200), 1))).unwrap();
        }
        drop(to);
        let counts = Counts::default();
        Writer::new(Box::new(counts.clone()), Format::Text, 9, Arc::default()).run(&from, Wall::default);
        let counts = counts.0.lock().unwrap();
        assert_eq!(counts.iter().sum::<usize>(), 1000);
        // 1,000 lines of 160 bytes on average, 64 KiB at a time.
        assert!(counts.len() <= 3, "{counts:?}");
    }

    struct Stuck(Arc<Mutex<()>>, Paper);

    impl Write for Stuck {
        fn write(&mut self, b: &[u8]) -> std::io::Result<usize> {
            let _wait = self.0.lock();
            self.1.write(b)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn senders_never_wait_and_losses_are_told() {
        let (gate, paper) = (Arc::new(Mutex::new(())), Paper::default());
        let held = gate.lock().unwrap();
        let out = Box::new(Stuck(Arc::clone(&gate), paper.clone()));
        let (events, thread) = Events::start(out, Format::Text, || Wall(5000)).unwrap();
        for n in 0..5000 {
            events.info("flood", n.to_string());
        }
        let dropped = events.dropped();
        assert!((3000..5000).contains(&dropped), "{dropped}");
        drop(held);
        drop(events);
        thread.join().unwrap();
        let lines = paper.lines();
        // The writer may have seen a part of the losses before it was stuck.
        let told: Vec<u64> = lines
            .iter()
            .filter_map(|l| l.split_once(" events were dropped")?.0.rsplit(' ').next()?.parse().ok())
            .collect();
        assert!((1..=2).contains(&told.len()), "{told:?}");
        assert_eq!(told.iter().sum::<u64>(), dropped);
        assert_eq!(lines.len(), (5000 - dropped) as usize + told.len());
    }
}
