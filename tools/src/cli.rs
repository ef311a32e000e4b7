//! The command line: verbs as `docs/cli.md` lists them. Completion and man pages are generated from here.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use twinlun_api::{ByteSize, RaidLevel};

/// Administers a Twinlun storage unit.
#[derive(Debug, Parser)]
#[command(name = "twinlun", version, propagate_version = true, max_term_width = 110)]
pub(crate) struct Cli {
    /// Admin socket of the storage processor, or the folder that holds it; stands before the verb
    #[arg(long, env = "TWINLUN_UNIT", value_name = "PATH", default_value = "/run/twinlun/admin.sock")]
    pub unit: PathBuf,
    /// How answers are printed
    #[arg(long, global = true, value_enum, default_value = "table")]
    pub output: Output,
    /// Do not ask before destroying something
    #[arg(long, short = 'y', global = true)]
    pub yes: bool,
    /// Say what would be done, and do nothing
    #[arg(long, global = true)]
    pub dry_run: bool,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// How answers are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Table,
    /// For programs: snake_case, bytes as integers, RFC 3339 times, `schema_version`.
    Json,
}

/// Nouns and their verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The storage processor
    #[command(subcommand)]
    Unit(UnitCommand),
    /// Is my data safe, is it current, what runs, what should I do
    Status,
    /// Disks
    #[command(subcommand)]
    Disk(DiskCommand),
    /// Logical units
    #[command(subcommand)]
    Lu(LuCommand),
    /// Hosts
    #[command(subcommand)]
    Host(HostCommand),
    /// What discovery sessions must prove
    #[command(subcommand)]
    Discovery(DiscoveryCommand),
    /// Portals
    #[command(subcommand)]
    Portal(PortalCommand),
    /// Mirrors
    #[command(subcommand)]
    Mirror(MirrorCommand),
    /// iSCSI sessions
    #[command(subcommand)]
    Session(SessionCommand),
    /// What happened
    #[command(subcommand)]
    Event(EventCommand),
    /// LUs of a unit whose daemon is stopped
    #[command(subcommand)]
    Offline(OfflineCommand),
    /// Two arrays on loopback and a mirrored LU, with nothing to configure
    Demo(DemoArgs),
    /// Load a LU with reads and writes, and measure
    Load(Box<twinlun::load::LoadArgs>),
    /// Print shell completion
    Completion {
        /// The shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Write man pages
    #[command(hide = true)]
    Man {
        /// Folder to write to
        folder: PathBuf,
    },
}

/// `twinlun unit`
#[derive(Debug, Subcommand)]
pub(crate) enum UnitCommand {
    /// Show the storage processor
    Show,
}

/// `twinlun disk`
#[derive(Debug, Subcommand)]
pub(crate) enum DiskCommand {
    /// List disks
    List,
    /// Add a disk
    Add {
        /// File or block device, relative to the state directory
        path: String,
        /// Size of a file to create
        #[arg(long)]
        size: Option<ByteSize>,
    },
    /// Stop using a disk
    Fail {
        /// Slot, as `disk list` shows it
        slot: String,
    },
    /// Put another disk into a slot and rebuild onto it
    Replace {
        /// Slot, as `disk list` shows it
        slot: String,
        /// File or block device, relative to the state directory
        #[arg(long)]
        path: String,
        /// Size of a file to create
        #[arg(long)]
        size: Option<ByteSize>,
    },
}

/// `twinlun lu`
#[derive(Debug, Subcommand)]
pub(crate) enum LuCommand {
    /// Bind a LU
    Create {
        /// Name
        name: String,
        /// Size
        #[arg(long)]
        size: ByteSize,
        /// RAID level: 0, 1, 10, 3, 5 or 6
        #[arg(long)]
        raid: RaidLevel,
        /// Slots of the disks, with commas between them
        #[arg(long, value_delimiter = ',')]
        disks: Vec<String>,
        /// Logical block size
        #[arg(long, default_value = "512", value_parser = ["512", "4096"])]
        block_size: String,
        /// Physical block size that hosts see; as the logical one when absent
        #[arg(long)]
        physical_block_size: Option<u32>,
        /// Give space up on UNMAP
        #[arg(long)]
        thin: bool,
        /// Hosts can eject and load the medium
        #[arg(long)]
        removable: bool,
        /// Hosts cannot write
        #[arg(long)]
        read_only: bool,
        /// Write cache: with `off`, GOOD means that the data is on stable storage of every image
        #[arg(long, value_enum, default_value = "on")]
        write_cache: Switch,
    },
    /// List LUs
    List,
    /// Show a LU
    Show {
        /// Name
        name: String,
    },
    /// Remove a LU and its data
    Delete {
        /// Name
        name: String,
    },
    /// Let a host see a LU
    Map {
        /// Name
        name: String,
        /// Initiator name, or `any`
        #[arg(long)]
        host: String,
        /// Logical unit number; the lowest free one when absent
        #[arg(long)]
        lun: Option<u16>,
    },
    /// Hide a LU from a host
    Unmap {
        /// Name
        name: String,
        /// Initiator name, or `any`
        #[arg(long)]
        host: String,
    },
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}

/// `twinlun host`
#[derive(Debug, Subcommand)]
pub(crate) enum HostCommand {
    /// Make a host known
    Add {
        /// Initiator name
        iqn: String,
        /// CHAP name that the host must use
        #[arg(long, requires = "secret_file")]
        chap_user: Option<String>,
        /// File with the host's CHAP secret
        #[arg(long, requires = "chap_user")]
        secret_file: Option<PathBuf>,
        /// CHAP name by which the unit proves itself
        #[arg(long, requires = "mutual_secret_file", requires = "chap_user")]
        mutual_user: Option<String>,
        /// File with the unit's CHAP secret
        #[arg(long, requires = "mutual_user")]
        mutual_secret_file: Option<PathBuf>,
        /// Make the secret files, which must not exist: 22 random letters and digits each, for their owner alone to read
        #[arg(long, requires = "secret_file")]
        generate: bool,
        /// Portal groups that it may come in by, with commas between them; all when absent
        #[arg(long, value_delimiter = ',', value_name = "GROUP")]
        groups: Vec<u16>,
    },
    /// List hosts
    List,
    /// Forget a host and end its sessions
    Remove {
        /// Initiator name
        iqn: String,
    },
}

/// `twinlun discovery`
#[derive(Debug, Subcommand)]
pub(crate) enum DiscoveryCommand {
    /// Show what it takes to discover
    Show,
    /// Ask everybody who discovers for this CHAP name and secret
    Set {
        /// CHAP name that initiators must use
        #[arg(long)]
        chap_user: String,
        /// File with the CHAP secret
        #[arg(long)]
        secret_file: PathBuf,
        /// CHAP name by which the unit proves itself
        #[arg(long, requires = "mutual_secret_file")]
        mutual_user: Option<String>,
        /// File with the unit's CHAP secret
        #[arg(long, requires = "mutual_user")]
        mutual_secret_file: Option<PathBuf>,
        /// Make the secret files, which must not exist: 22 random letters and digits each, for their owner alone to read
        #[arg(long, requires = "secret_file")]
        generate: bool,
    },
    /// Ask for nothing beyond what the host proves for its normal sessions
    Clear,
}

/// `twinlun portal`
#[derive(Debug, Subcommand)]
pub(crate) enum PortalCommand {
    /// List portals
    List,
    /// Let nobody in, ask hosts to log out, and drop who is left after a time
    Drain {
        /// Address and port, as `portal list` shows it
        address: String,
        /// Seconds that hosts have
        #[arg(long, default_value = "30", value_parser = clap::value_parser!(u16).range(1..=3600))]
        seconds: u16,
    },
    /// Serve hosts again
    Resume {
        /// Address and port, as `portal list` shows it
        address: String,
    },
    /// Send normal logins to another portal, or no longer
    Redirect {
        /// Address and port, as `portal list` shows it, or `all`
        address: String,
        /// Address and port of the other portal
        #[arg(long, required_unless_present = "off")]
        to: Option<std::net::SocketAddr>,
        /// Tell hosts to remember it
        #[arg(long, requires = "to")]
        permanent: bool,
        /// Undo an earlier order
        #[arg(long, conflicts_with = "to")]
        off: bool,
    },
}

/// `twinlun mirror`
#[derive(Debug, Subcommand)]
pub(crate) enum MirrorCommand {
    /// Create a mirror whose primary image are these LUs
    Create {
        /// Name
        name: String,
        /// A LU of the set; several in order
        #[arg(long, required = true)]
        lu: Vec<String>,
        /// Write policy
        #[arg(long, default_value = "sync", value_parser = ["sync", "async", "cyclic"])]
        policy: String,
        /// Attributes, such as `maximum_missing_images=0`
        #[arg(value_parser = attribute)]
        attributes: Vec<(String, String)>,
    },
    /// Add a secondary image on another unit
    AddSecondary {
        /// Mirror
        name: String,
        /// The other storage unit, as the configuration names it
        #[arg(long = "unit", value_name = "UNIT")]
        on: String,
        /// A LU of the secondary; several in the order of the set
        #[arg(long, required = true)]
        lu: Vec<String>,
        /// Both images are equal already: no first copy
        #[arg(long)]
        synchronized: bool,
    },
    /// Remove a secondary image; its LUs and data stay
    RemoveSecondary {
        /// Mirror and secondary
        #[command(flatten)]
        image: ImageArgs,
        /// Without waiting for it
        #[arg(long)]
        force: bool,
    },
    /// Make the secondary image of this unit the primary
    Promote {
        /// Mirror
        name: String,
        /// Without the old primary's consent
        #[arg(long)]
        force: bool,
    },
    /// Copy the whole primary to a secondary
    Sync {
        /// Mirror and secondary
        #[command(flatten)]
        image: ImageArgs,
        /// Wait until it is done
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Stop sending to a secondary; what it misses is recorded
    Fracture {
        /// Mirror and secondary
        #[command(flatten)]
        image: ImageArgs,
    },
    /// Send to a fractured secondary again, after copying what it misses
    Restore {
        /// Mirror and secondary
        #[command(flatten)]
        image: ImageArgs,
        /// Wait until it is done
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Let hosts in
    Activate {
        /// Mirror
        name: String,
    },
    /// Keep hosts out
    Deactivate {
        /// Mirror
        name: String,
        /// Without finishing what is under way
        #[arg(long)]
        force: bool,
    },
    /// End a mirror; LUs and data stay
    Destroy {
        /// Mirror
        name: String,
    },
    /// Change attributes
    Set {
        /// Mirror
        name: String,
        /// The secondary that is meant; the whole mirror when absent
        #[arg(long = "unit", value_name = "UNIT")]
        on: Option<String>,
        /// Attributes, such as `synchronization_rate=50MiB`
        #[arg(required = true, value_parser = attribute)]
        attributes: Vec<(String, String)>,
    },
    /// List mirrors
    List,
    /// Show a mirror
    Show {
        /// Mirror
        name: String,
    },
    /// Show a mirror again whenever something changes
    Watch {
        /// Mirror
        name: String,
    },
    /// Say why a mirror is as it is, and what to do
    Why {
        /// Mirror
        name: String,
    },
}

/// A secondary of a mirror.
#[derive(Debug, Args)]
pub(crate) struct ImageArgs {
    /// Mirror
    pub name: String,
    /// The secondary's storage unit
    #[arg(long = "unit", value_name = "UNIT")]
    pub on: String,
}

/// How long to wait.
#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// Wait until it is done, with a progress bar on a terminal
    #[arg(long)]
    pub wait: bool,
    /// Seconds to wait at most
    #[arg(long, default_value_t = 86_400, requires = "wait")]
    pub timeout: u64,
}

/// `twinlun session`
#[derive(Debug, Subcommand)]
pub(crate) enum SessionCommand {
    /// List sessions
    List,
    /// End a session
    Drop {
        /// Its handle, as `session list` shows it
        tsih: u16,
    },
}

/// `twinlun event`
#[derive(Debug, Subcommand)]
pub(crate) enum EventCommand {
    /// List events
    List {
        /// Go on with new ones
        #[arg(long)]
        follow: bool,
    },
}

/// `twinlun offline`
#[derive(Debug, Subcommand)]
pub(crate) enum OfflineCommand {
    /// Write a LU's content to stdout
    Dump {
        /// Configuration of the unit
        #[arg(long)]
        config: PathBuf,
        /// Name of the LU
        lu: String,
    },
    /// Compare LUs of two units byte by byte; exit 0 only if they are equal
    Compare {
        /// Configuration of one unit and the LU's name: CONFIG:LU
        a: ConfiguredLu,
        /// Configuration of the other unit and the LU's name: CONFIG:LU
        b: ConfiguredLu,
    },
}

/// A LU named by its unit's configuration.
#[derive(Clone, Debug)]
pub(crate) struct ConfiguredLu {
    /// Configuration file.
    pub config: PathBuf,
    /// Name of the LU.
    pub lu: String,
}

impl std::str::FromStr for ConfiguredLu {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.rsplit_once(':') {
            Some((config, lu)) if !config.is_empty() && !lu.is_empty() => {
                Ok(Self { config: config.into(), lu: lu.into() })
            }
            _ => Err("write CONFIG:LU, such as east.toml:db".into()),
        }
    }
}

/// `twinlun demo`
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Write, cut the link, write more, restore it, and compare both images; exit 0 only if they are equal
    #[arg(long)]
    pub exercise: bool,
    /// Size of the mirrored LU
    #[arg(long, default_value = "1GiB")]
    pub size: ByteSize,
    /// Where the disks and configurations are kept; a temporary folder when absent
    #[arg(long)]
    pub folder: Option<PathBuf>,
}

fn attribute(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err("write an attribute as name=value".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }
}
