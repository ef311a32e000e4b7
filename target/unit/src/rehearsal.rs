//! Dry runs of orders to mirrors: what is checked, and how it is described.

use twinlun_mirror::Rehearsal;

use crate::admin::MirrorOrder;

/// What a dry run of an order to a mirror checks, and its description.
pub(crate) fn of(order: &MirrorOrder) -> (Rehearsal<'_>, String) {
    match order {
        MirrorOrder::AddSecondary(o) => (
            Rehearsal::AddSecondary { unit: &o.unit, lus: &o.lus },
            format!(
                "add a secondary image on {} of {}{}; {0} itself is not asked before",
                o.unit,
                o.lus.join(", "),
                if o.synchronized {
                    ", taken for equal and not copied"
                } else {
                    ", and copy everything to it"
                },
            ),
        ),
        MirrorOrder::RemoveSecondary(o) => (
            Rehearsal::RemoveSecondary { unit: &o.unit, force: o.force },
            format!("remove the secondary image on {}; its LUs and data stay", o.unit),
        ),
        MirrorOrder::Sync(o) => {
            (Rehearsal::Sync { unit: &o.unit }, format!("copy to {} what it misses", o.unit))
        }
        MirrorOrder::Fracture(o) => (
            Rehearsal::Fracture { unit: &o.unit },
            format!("send no writes to {} until it is restored", o.unit),
        ),
        MirrorOrder::Restore(o) => (
            Rehearsal::Restore { unit: &o.unit },
            format!("copy to {} what it missed, and send it writes again", o.unit),
        ),
        MirrorOrder::Promote { .. } => {
            (Rehearsal::Promote, "make the secondary image of this unit the primary".into())
        }
        MirrorOrder::Activate => (Rehearsal::Activate, "let hosts in".into()),
        MirrorOrder::Deactivate { force } => {
            let how = if *force { "at once" } else { "after what is under way" };
            (Rehearsal::Deactivate, format!("keep hosts out, {how}"))
        }
        MirrorOrder::Destroy => (Rehearsal::Destroy, "end it; its LUs become ordinary ones".into()),
        MirrorOrder::Set(o) => {
            let whose = o.unit.as_ref().map_or_else(String::new, |unit| format!(" of the image on {unit}"));
            let changes: Vec<_> =
                o.attributes.iter().map(|(name, value)| format!("{name} = {value}")).collect();
            (
                Rehearsal::Set { unit: o.unit.as_deref(), attributes: &o.attributes },
                format!("set{whose} {}", changes.join(", ")),
            )
        }
    }
}
