//! The kinds of board: which emulator, which devices.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// An emulated machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// 64-bit ARM, virtio devices.
    Virt,
    /// Raspberry Pi 3 B with an Ethernet adapter on its USB port; without a disk, so a power cut loses its state.
    Raspi3b,
    /// 32-bit ARM (v7), virtio devices.
    Armv7,
}

impl Machine {
    /// By its name on the command line.
    pub fn named(name: &str) -> Result<Machine, String> {
        match name {
            "virt" => Ok(Machine::Virt),
            "raspi3b" => Ok(Machine::Raspi3b),
            "armv7" => Ok(Machine::Armv7),
            other => Err(format!("no machine {other:?}: virt, raspi3b or armv7")),
        }
    }

    /// The guest's name of its network interface.
    pub fn interface(self) -> &'static str {
        if self == Machine::Raspi3b { "usb0" } else { "eth0" }
    }

    /// The longest that anything may take that happens in one go. Emulation on a busy machine is slow, and speed is not asserted.
    pub fn patience(self) -> Duration {
        Duration::from_secs(if self == Machine::Raspi3b { 600 } else { 240 })
    }

    /// Time between two pings and two ARP questions. Each costs every board an interrupt, which is much for an emulated one.
    pub fn pace(self) -> Duration {
        Duration::from_millis(if self == Machine::Raspi3b { 50 } else { 10 })
    }

    /// The serial port that is the console. A Pi's first one belongs to its Bluetooth chip.
    pub fn console(self) -> &'static str {
        if self == Machine::Raspi3b { "ttyS1" } else { "ttyAMA0" }
    }

    /// The longest that a whole run may take.
    pub fn limit(self) -> Duration {
        self.patience() * 6
    }

    /// The emulator with its devices; `disk` is the board's own copy.
    pub fn emulator(self, dir: &Path, tap: &str, mac: &str, disk: &Path) -> Command {
        let mut qemu = Command::new(if self == Machine::Armv7 { "qemu-system-arm" } else { "qemu-system-aarch64" });
        match self {
            Machine::Virt => qemu.args(["-M", "virt", "-cpu", "cortex-a53", "-m", "128"]),
            Machine::Armv7 => qemu.args(["-M", "virt", "-cpu", "cortex-a15", "-m", "128"]),
            Machine::Raspi3b => qemu.args(["-M", "raspi3b"]).arg("-dtb").arg(dir.join("board.dtb")),
        };
        if self == Machine::Raspi3b {
            qemu.args(["-serial", "null"]);
        }
        qemu.args(["-display", "none", "-serial", "stdio", "-monitor", "none", "-no-reboot"]);
        qemu.arg("-kernel").arg(dir.join("kernel")).arg("-initrd").arg(dir.join("initrd"));
        qemu.args(["-netdev", &format!("tap,id=net,ifname={tap},script=no,downscript=no")]);
        if self == Machine::Raspi3b {
            qemu.args(["-device", &format!("usb-net,netdev=net,mac={mac}")]);
        } else {
            qemu.args(["-device", &format!("virtio-net-device,netdev=net,mac={mac}")]);
            qemu.args(["-drive", &format!("if=none,id=disk,format=raw,file={}", disk.display())]);
            qemu.args(["-device", "virtio-blk-device,drive=disk"]);
        }
        qemu
    }
}
