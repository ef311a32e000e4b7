//! Everything an administrator can ask for.

use serde_json::Value;
use twinlun_api as api;
use twinlun_api::Problem;

/// One order. Names are checked where the order is carried out.
#[derive(Clone, Debug)]
pub enum Order {
    /// The storage processor.
    ShowUnit,
    /// Is my data safe, is it current, what runs, what should I do.
    Status,
    /// All disks.
    ListDisks,
    /// A new disk.
    AddDisk(api::AddDisk),
    /// Stop using the disk in a slot.
    FailDisk {
        /// Slot.
        slot: String,
    },
    /// Put another disk into a slot and rebuild onto it.
    ReplaceDisk {
        /// Slot.
        slot: String,
        /// The other disk.
        with: api::ReplaceDisk,
    },
    /// All LUs.
    ListLus,
    /// One LU.
    ShowLu {
        /// Its name.
        name: String,
    },
    /// A new LU.
    CreateLu(api::CreateLu),
    /// Remove a LU and its data.
    DeleteLu {
        /// Its name.
        name: String,
    },
    /// Let a host see a LU.
    MapLu {
        /// LU.
        name: String,
        /// Host and LUN.
        map: api::MapLu,
    },
    /// Hide a LU from a host.
    UnmapLu {
        /// LU.
        name: String,
        /// Host.
        unmap: api::UnmapLu,
    },
    /// All hosts.
    ListHosts,
    /// A new host.
    AddHost(api::AddHost),
    /// Forget a host and end its sessions.
    RemoveHost {
        /// Initiator name.
        iqn: String,
    },
    /// What discovery takes.
    ShowDiscovery,
    /// Change what discovery takes.
    SetDiscovery(api::SetDiscovery),
    /// All portals.
    ListPortals,
    /// Ask the hosts of a portal to leave and let nobody in.
    DrainPortal {
        /// Its address.
        address: String,
        /// How long.
        drain: api::DrainPortal,
    },
    /// Serve hosts at a portal again.
    ResumePortal {
        /// Its address.
        address: String,
    },
    /// Send the logins of a portal, or of all, elsewhere, or no more.
    RedirectPortal {
        /// Its address, or `all`.
        address: String,
        /// Where to.
        redirect: api::RedirectPortal,
    },
    /// All sessions.
    ListSessions,
    /// End a session.
    DropSession {
        /// Its handle.
        tsih: u16,
    },
    /// All mirrors.
    ListMirrors,
    /// One mirror.
    ShowMirror {
        /// Its name.
        name: String,
    },
    /// Why it is as it is.
    WhyMirror {
        /// Its name.
        name: String,
    },
    /// A new mirror.
    CreateMirror(api::CreateMirror),
    /// An order to an existing mirror.
    Mirror {
        /// Its name.
        name: String,
        /// The order.
        order: MirrorOrder,
    },
    /// Events after a sequence number; waits for one when `wait` is set and there is none.
    Events {
        /// Largest sequence number already seen.
        after: u64,
        /// Whether to wait.
        wait: bool,
    },
}

/// Orders to one mirror.
#[derive(Clone, Debug)]
pub enum MirrorOrder {
    /// Add a secondary image.
    AddSecondary(api::AddSecondary),
    /// Remove a secondary image.
    RemoveSecondary(api::RemoveSecondary),
    /// Copy the whole primary to a secondary.
    Sync(api::ImageOrder),
    /// Stop sending to a secondary.
    Fracture(api::ImageOrder),
    /// Send again, after copying what it misses.
    Restore(api::ImageOrder),
    /// Make the secondary image of this unit the primary.
    Promote {
        /// Without the old primary's consent.
        force: bool,
    },
    /// Let hosts in.
    Activate,
    /// Keep hosts out.
    Deactivate {
        /// Without finishing what is under way.
        force: bool,
    },
    /// End the mirror; LUs and data stay.
    Destroy,
    /// Change attributes.
    Set(api::SetAttributes),
}

/// What comes back: the JSON answer, or why not.
pub type Answer = Result<Value, Problem>;
