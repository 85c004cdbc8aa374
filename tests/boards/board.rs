//! One emulated board: its emulator, its tap on the bridge, its console.

use super::lab::{LAB_DIR, sh, wait_for, wait_until};
use super::machine::Machine;
use kube_vip::status::Snapshot;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};

/// A board, on or off.
pub struct Board {
    machine: Machine,
    dir: PathBuf,
    number: u8,
    power: Option<(Child, ChildStdin)>,
}

impl Board {
    /// Gives board 1, 2, 3 … its tap on the bridge and its own disk; it is still off.
    pub fn new(machine: Machine, dir: &Path, number: u8) -> Board {
        let board = Board { machine, dir: dir.to_owned(), number, power: None };
        sh(&format!("ip tuntap add dev {tap} mode tap; ip link set {tap} master br0 up", tap = board.tap()));
        sh(&format!("cp --sparse=always {} {}", dir.join("disk.img").display(), board.disk().display()));
        board
    }

    /// Its node's id.
    pub fn id(&self) -> String {
        format!("n{}", self.number)
    }

    /// The MAC of its network adapter.
    pub fn mac(&self) -> [u8; 6] {
        [2, 0x99, 0, 0, 1, self.number]
    }

    fn tap(&self) -> String {
        format!("tap{}", self.number)
    }

    fn disk(&self) -> PathBuf {
        Path::new(LAB_DIR).join(format!("{}.img", self.id()))
    }

    /// What it wrote on its console, over all its boots.
    fn console(&self) -> PathBuf {
        Path::new(LAB_DIR).join(format!("{}.log", self.id()))
    }

    /// Whether its emulator runs.
    pub fn is_on(&self) -> bool {
        self.power.is_some()
    }

    /// Switches it on.
    pub fn power_on(&mut self) {
        assert!(!self.is_on(), "{} is on", self.id());
        let mac = super::lab::net::mac_text(self.mac());
        let mut qemu = self.machine.emulator(&self.dir, &self.tap(), &mac, &self.disk());
        qemu.arg("-append").arg(format!(
            "console={},115200 quiet panic=-1 BOARD_ADDRESS=10.99.0.1{}/24 BOARD_INTERFACE={}",
            self.machine.console(),
            self.number,
            self.machine.interface()
        ));
        let log = File::options().create(true).append(true).open(self.console()).expect("the lab's directory is writable");
        let err = log.try_clone().expect("a file can be duplicated");
        let child = qemu.stdin(Stdio::piped()).stdout(log).stderr(err).spawn();
        let mut child = child.unwrap_or_else(|e| panic!("can't start {qemu:?}: {e}"));
        let orders = child.stdin.take().expect("its input is a pipe");
        self.power = Some((child, orders));
    }

    /// Waits until it has booted for the `boots`th time; what it says of its kernel.
    pub fn booted(&self, boots: usize) -> String {
        wait_for(&format!("{} has booted", self.id()), self.machine.patience(), || {
            assert!(!self.text().contains("@ failed"), "{} failed to boot: {}", self.id(), self.text());
            nth_after(&self.text(), "@ booted ", boots - 1)
        })
    }

    /// The power is cut: the emulator is killed, nothing in the guest notices.
    pub fn cut_power(&mut self) {
        let (mut child, _) = self.power.take().expect("only a board that is on can lose its power");
        child.kill().expect("own child can be killed");
        child.wait().expect("own child can be waited for");
    }

    /// Off the bridge: the guest's own link stays up.
    pub fn detach(&self) {
        sh(&format!("ip link set {} nomaster", self.tap()));
    }

    /// Ends [`Self::detach`].
    pub fn attach(&self) {
        sh(&format!("ip link set {} master br0", self.tap()));
    }

    /// Says `order` on the console.
    pub fn say(&mut self, order: &str) {
        let (_, orders) = self.power.as_mut().expect("only a board that is on hears");
        writeln!(orders, "{order}").expect("the emulator reads the console");
    }

    /// Says `order` and waits for the answer `@ WORD …`; what follows the word.
    pub fn ask(&mut self, order: &str, word: &str) -> String {
        let word = format!("@ {word}");
        let before = self.text().matches(&word).count();
        self.say(order);
        wait_for(&format!("{} answers {order:?} with {word:?}", self.id()), self.machine.patience(), || {
            nth_after(&self.text(), &word, before)
        })
    }

    /// What `kube-vip status` says; `None` while it can't be asked.
    pub fn status(&mut self) -> Option<Snapshot> {
        let answer = self.ask("status", "status ");
        serde_json::from_str(&answer).ok()
    }

    /// Tells it to shut down, and waits until it has switched itself off; the program's exit code.
    pub fn shut_down(&mut self) -> String {
        let code = self.ask("poweroff", "stopped ");
        let (mut child, _orders) = self.power.take().expect("it was on");
        wait_until(&format!("{} is off", self.id()), self.machine.patience(), || {
            child.try_wait().expect("own child can be waited for").is_some()
        });
        code
    }

    /// How often `line` is on the console so far.
    pub fn lines_with(&self, line: &str) -> usize {
        self.text().matches(line).count()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.console()).unwrap_or_default()).into_owned()
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        if self.is_on() {
            self.cut_power();
        }
    }
}

/// The rest of the line after the `n`th (from 0) `word`, once the line is whole.
fn nth_after(text: &str, word: &str, n: usize) -> Option<String> {
    let (at, _) = text.match_indices(word).nth(n)?;
    let rest = &text[at + word.len()..];
    Some(rest[..rest.find('\n')?].trim_end().to_owned())
}
