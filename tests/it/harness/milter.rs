//! A milter under the test's control: it notes what it is told and answers what the test says.
//!
//! Knows the framing of the protocol and nothing else; what it sends may be nonsense.
#![allow(clippy::disallowed_methods, reason = "a server in a test has sockets of its own")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What it does when it has heard a command.
pub enum Say {
    /// Continue.
    Go,
    /// Nothing.
    Nothing,
    /// These bytes.
    Bytes(Vec<u8>),
    /// It closes the connection.
    Close,
}

/// A packet.
pub fn packet(letter: char, data: &[u8]) -> Vec<u8> {
    let mut out = (data.len() as u32 + 1).to_be_bytes().to_vec();
    out.push(letter as u8);
    out.extend_from_slice(data);
    out
}

/// Says one packet.
pub fn say(letter: char, data: &[u8]) -> Say {
    Say::Bytes(packet(letter, data))
}

/// Says several.
pub fn all(packets: &[(char, &[u8])]) -> Say {
    Say::Bytes(packets.iter().flat_map(|(letter, data)| packet(*letter, data)).collect())
}

type Script = Box<dyn FnMut(char, &[u8]) -> Say + Send>;
type Heard = Arc<Mutex<Vec<(char, Vec<u8>)>>>;

/// A running milter. Ends with the test.
pub struct Milter {
    pub address: SocketAddr,
    heard: Heard,
    script: Arc<Mutex<Script>>,
}

impl Milter {
    /// One with these wishes (SMFIP_*); it may do everything, and says what `script` says.
    pub fn start(wishes: u32, script: impl FnMut(char, &[u8]) -> Say + Send + 'static) -> Milter {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let script: Arc<Mutex<Script>> = Arc::new(Mutex::new(Box::new(script)));
        let heard = Heard::default();
        let (for_each, notes) = (script.clone(), heard.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (script, heard) = (for_each.clone(), notes.clone());
                std::thread::spawn(move || drop(serve(stream, wishes, &script, &heard)));
            }
        });
        Milter { address, heard, script }
    }

    /// From now on it says this.
    pub fn script(&self, script: impl FnMut(char, &[u8]) -> Say + Send + 'static) {
        *self.script.lock().expect("no panic") = Box::new(script);
    }

    /// All it has heard so far, macros too.
    pub fn heard(&self) -> Vec<(char, Vec<u8>)> {
        self.heard.lock().expect("no panic").clone()
    }

    /// The data of all commands with this letter.
    pub fn told(&self, letter: char) -> Vec<Vec<u8>> {
        self.heard().into_iter().filter(|h| h.0 == letter).map(|h| h.1).collect()
    }

    /// The letters of all commands but macros.
    pub fn letters(&self) -> String {
        self.heard().iter().map(|h| h.0).filter(|l| *l != 'D').collect()
    }
}

fn serve(mut stream: TcpStream, wishes: u32, script: &Mutex<Script>, heard: &Heard) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    loop {
        let mut len = [0; 4];
        stream.read_exact(&mut len)?;
        let mut bytes = vec![0; u32::from_be_bytes(len) as usize];
        stream.read_exact(&mut bytes)?;
        let (letter, data) = (bytes[0] as char, &bytes[1..]);
        heard.lock().expect("no panic").push((letter, data.to_vec()));
        let said = match letter {
            'D' | 'A' => Say::Nothing,
            'Q' => return Ok(()),
            'O' => match script.lock().expect("no panic")('O', data) {
                Say::Go => {
                    let numbers = [6u32, 0xff, wishes].map(u32::to_be_bytes).concat();
                    say('O', &numbers)
                }
                other => other,
            },
            letter => script.lock().expect("no panic")(letter, data),
        };
        match said {
            Say::Go => stream.write_all(&packet('c', b""))?,
            Say::Nothing => {}
            Say::Bytes(bytes) => stream.write_all(&bytes)?,
            Say::Close => return Ok(()),
        }
    }
}
