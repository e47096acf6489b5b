//! A real browser: Chromium without a window, and a small web server for its pages, to which they say what they see.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::process::{Launch, Process, until};
use crate::world::World;

/// Debian's Chromium without a window.
const CHROMIUM: &str = "chromium-headless-shell";

/// Chromium in a world, with a profile of its own and nothing but the page's own traffic.
pub fn chromium(world: &World, flags: &[String]) -> Launch {
    let profile = world.make_dir("chromium", 0o700);
    world
        .native(CHROMIUM)
        // The kernel's sandbox for pages wants privileges that a test user has not; the pages are ours.
        .args(["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .args(flags)
}

/// A screenshot of a page, as the PNG file's path and bytes.
pub fn screenshot(world: &World, url: &str, name: &str) -> Vec<u8> {
    let path = world.path(name);
    let flags = [format!("--screenshot={}", path.display()), "--window-size=1000,900".into(), url.to_owned()];
    chromium(world, &flags).finish_within(Duration::from_secs(60)).success();
    std::fs::read(&path).unwrap_or_else(|e| panic!("the screenshot {}: {e}", path.display()))
}

/// What a page looks like to a program: its elements after its scripts have run.
pub fn document(world: &World, url: &str) -> String {
    chromium(world, &["--dump-dom".to_owned(), url.to_owned()]).finish_within(Duration::from_secs(60)).success().stdout
}

/// A page that is open in a browser, and what it has said.
pub struct Page {
    said: Arc<Mutex<Vec<String>>>,
    _browser: Process,
}

/// Serves one page on a port of its own; the thread ends with the test's process.
pub struct Site {
    at: SocketAddr,
    said: Arc<Mutex<Vec<String>>>,
}

impl Site {
    /// A site whose every path is this page.
    pub fn new(page: &Path) -> Site {
        let html = std::fs::read(page).unwrap_or_else(|e| panic!("{}: {e}", page.display()));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap_or_else(|e| panic!("a TCP socket on 127.0.0.1: {e}"));
        let at = listener.local_addr().unwrap_or_else(|e| panic!("the address of a TCP socket: {e}"));
        let said: Arc<Mutex<Vec<String>>> = Arc::default();
        let heard = said.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A browser may open connections that it never uses.
                let (html, heard) = (html.clone(), heard.clone());
                std::thread::spawn(move || serve(stream, &html, &heard));
            }
        });
        Site { at, said }
    }

    /// The origin of its pages.
    pub fn origin(&self) -> String {
        format!("http://{}", self.at)
    }

    /// Opens the page with this query in a browser.
    pub fn open(&self, world: &World, query: &str, flags: &[String]) -> Page {
        let url = format!("http://{}/?{query}", self.at);
        // It stays open until it is stopped.
        let all = [flags, &["--remote-debugging-port=0".to_owned(), url]].concat();
        Page { said: self.said.clone(), _browser: chromium(world, &all).start() }
    }
}

impl Page {
    /// Waits until the page has said something that begins so, and returns the whole of it.
    pub fn wait_for(&self, beginning: &str) -> String {
        until(&format!("the page to say {beginning:?}"), || {
            let said = self.said.lock().unwrap_or_else(|e| e.into_inner());
            said.iter().find(|line| line.starts_with(beginning)).cloned()
        })
    }

    /// Everything that it has said.
    pub fn said(&self) -> Vec<String> {
        self.said.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }
}

fn serve(mut stream: TcpStream, html: &[u8], said: &Mutex<Vec<String>>) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    let (head, length) = loop {
        match stream.read(&mut buffer) {
            Ok(n) if n > 0 => bytes.extend_from_slice(&buffer[..n]),
            _ => return,
        }
        let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let length =
            head.lines().find_map(|l| l.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
        bytes.drain(..end + 4);
        break (head, length.unwrap_or(0usize));
    };
    while bytes.len() < length {
        match stream.read(&mut buffer) {
            Ok(n) if n > 0 => bytes.extend_from_slice(&buffer[..n]),
            _ => return,
        }
    }
    let body: &[u8] = if head.starts_with("POST") {
        said.lock().unwrap_or_else(|e| e.into_inner()).push(String::from_utf8_lossy(&bytes).into_owned());
        b""
    } else {
        html
    };
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all(answer.as_bytes()).and_then(|()| stream.write_all(body));
}
