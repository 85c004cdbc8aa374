//! Who is measured under what, for how long, on which machine.

use super::contest::{Kind, Setting};
use super::fault::Fault;
use super::lab::ms;
use super::options::Options;
use super::{keepalived, ours};

/// More trials of a foreign program tell nothing new.
const FOREIGN_TRIALS: usize = 5;
/// After so many trials of a foreign program with two holders for good, the others are spared: each is long and ends the same.
pub const ENDLESS_ENOUGH: usize = 2;
/// Who is measured under what, and how often.
pub struct Plan {
    pub settings: Vec<Setting>,
    pub faults: Vec<Fault>,
    pub trials: usize,
    pub handover: bool,
    /// keepalived's version, or why it can't take part.
    pub keepalived: Result<String, String>,
    /// Whether intervals with our packet rates are added.
    pub equal_rates: bool,
}

impl Plan {
    /// What the options ask for; an error where they name something unknown.
    pub fn new(options: &Options) -> Result<Plan, String> {
        let mut settings = vec![Setting::ours("lan", ms(50)), Setting::ours("fast", ms(15))];
        settings.extend([1000, 100, 10].map(|advert| Setting::keepalived(ms(advert))));
        let names = |of: &[Setting]| of.iter().map(|s| s.name.clone()).collect::<Vec<_>>();
        let fault_names: Vec<String> = Fault::ALL.iter().map(|f| f.name().to_owned()).collect();
        let all = [names(&settings), fault_names.clone()].concat();
        if let Some(stray) = options.only.iter().find(|part| !all.iter().any(|name| name.contains(*part))) {
            return Err(format!("nothing is named like {stray:?}; there are: {}", all.join(" ")));
        }
        let (who, what) = (options.choice(&names(&settings)), options.choice(&fault_names));
        let chosen = |parts: &[&str], name: &str| parts.is_empty() || parts.iter().any(|part| name.contains(part));
        settings.retain(|s| chosen(&who, &s.name) && (!options.quick || s.name == "lan"));
        let quick = |f: &Fault| !options.quick || [Fault::Term, Fault::Cable].contains(f);
        let faults = Fault::ALL.into_iter().filter(|f| chosen(&what, f.name()) && quick(f)).collect();
        Ok(Plan {
            settings,
            faults,
            trials: options.trials,
            handover: ours::knows_handover(),
            keepalived: keepalived::version(),
            equal_rates: who.is_empty() && !options.quick,
        })
    }

    /// How many trials each of its cells gets.
    pub fn trials_of(&self, setting: &Setting) -> usize {
        match setting.kind {
            Kind::Ours => self.trials,
            Kind::Keepalived => self.trials.min(FOREIGN_TRIALS),
        }
    }

    /// A rough guess from what trials took on a quiet machine.
    pub fn minutes(&self) -> f64 {
        let one = |s: &Setting| match s.kind {
            Kind::Ours => 2.2,
            Kind::Keepalived => 2.5 + 3.2 * s.period.as_secs_f64(), // some are spared
        };
        let tried = |s: &Setting| self.faults.iter().filter(|f| s.lacks(**f, self.handover).is_none()).count();
        let usable = self.settings.iter().filter(|s| s.kind == Kind::Ours || self.keepalived.is_ok());
        usable.map(|s| one(s) * (tried(s) * self.trials_of(s)) as f64).sum::<f64>() / 60.0
    }

    /// The machine in a few words.
    pub fn machine(&self) -> String {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let plural = if self.trials == 1 { "" } else { "s" };
        format!("{cores} cores, Linux {}, {} trial{plural}", read("/proc/sys/kernel/osrelease"), self.trials)
    }

    /// What stands above the figures.
    pub fn header(&self) -> String {
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let program = self.keepalived.as_ref().map_or_else(|why| format!("keepalived is skipped: {why}"), String::clone);
        let keepalived = format!(
            "{program}: priorities 250, 200, 150, nopreempt, VRRP 2 at 1 s, else 3;\n\
             at most {FOREIGN_TRIALS} trials, {ENDLESS_ENOUGH} where two holders stay; \"daemon\" is its VRRP process, \"keeper\" its parent.\n"
        );
        let beside = self.settings.iter().any(|s| s.kind == Kind::Keepalived);
        format!(
            "{}, load at the start {}.\n\
             Three nodes in namespaces on one bridge; pings every 2 ms, an ARP question every 10 ms, faults spread evenly over one heartbeat.\n\
             kube-vip: lan is a heartbeat of 50 ms and a lease of 250 ms, fast 15 ms and 60 ms.\n\
             {}Estimated: {:.1} min.",
            self.machine(),
            load.split(' ').next().unwrap_or_default(),
            if beside { &keepalived } else { "" },
            self.minutes()
        )
    }
}
