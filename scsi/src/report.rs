//! Commands that report on the target device: REPORT LUNS, REQUEST SENSE, port groups, supported operation codes and task management.

use crate::attention::UnitAttention;
use crate::commands::{Row, TABLE, rows};
use crate::context::{Context, Run, data_in};
use crate::device::{LuAccess, Nexus};
use crate::lun;
use crate::sense::{Sense, SenseKey};
use crate::wire::{Fields, Put};
use crate::{Asc, Outcome};

pub(crate) fn request_sense(c: &mut Context<'_>) -> Run {
    let descriptor_format = c.cdb.bit_at(1, 0);
    let attention = c.lu.nexuses.get_mut(&c.nexus_id).and_then(|state| state.attentions.take());
    let sense = attention
        .map(UnitAttention::sense)
        .or_else(|| c.lu.not_ready(crate::commands::Access::Active))
        .or_else(|| c.lu.operation_sense())
        .or_else(|| {
            let absent = Sense::new(SenseKey::NotReady, Asc::MEDIUM_NOT_PRESENT);
            (!c.lu.loaded).then_some(absent)
        })
        .unwrap_or(Sense::new(SenseKey::NoSense, Asc::NONE));
    Context::data(sense.encode(descriptor_format).to_vec(), usize::from(c.cdb.u8_at(4)))
}

/// REQUEST SENSE where no LU is: GOOD, and the sense data says so (SPC-5, 6.39).
pub(crate) fn sense_of_nothing(cdb: &[u8]) -> Outcome {
    let sense = Sense::illegal(Asc::LUN_NOT_SUPPORTED);
    data_in(sense.encode(cdb.bit_at(1, 0)).to_vec(), usize::from(cdb.u8_at(4)))
}

pub(crate) fn report_luns(c: &mut Context<'_>) -> Run {
    Ok(luns(c.nexus, c.cdb)?)
}

/// REPORT LUNS, also where no LU is. The caller clears REPORTED LUNS DATA HAS CHANGED of the nexus.
pub(crate) fn luns(nexus: &Nexus, cdb: &[u8]) -> Result<Outcome, Sense> {
    let allocation = cdb.u32_at(6) as usize;
    let all = match cdb.u8_at(2) {
        0x00 | 0x02 => true,
        0x01 => false, // well-known LUs only: there is none beside REPORT LUNS itself, which is not reported
        _ => return Err(Sense::cdb_field(2, Some(7))),
    };
    let mut out = vec![0; 8];
    for (number, _) in nexus.map.iter().filter(|_| all) {
        out.extend_from_slice(&lun::encode(number));
    }
    let len = out.len() - 8;
    out.set32(0, len);
    Ok(data_in(out, allocation))
}

/// ASYMMETRIC ACCESS STATE. A LU that is not ready is where it shall be used: its state is not what is wrong with it.
fn access_state(access: LuAccess) -> u8 {
    match access {
        LuAccess::Active | LuAccess::NotReady => 0x0,
        LuAccess::NonOptimized => 0x1,
        LuAccess::Standby => 0x2,
        LuAccess::Unavailable => 0x3,
    }
}

pub(crate) fn target_port_groups(c: &mut Context<'_>) -> Run {
    let extended = match c.cdb.u8_at(1) >> 5 {
        0 => false,
        1 => true,
        _ => return Err(Sense::cdb_field(1, Some(7)).into()),
    };
    let mut out = vec![0; 4];
    if extended {
        out.extend_from_slice(&[0x10, 0, 0, 0]);
    }
    let local: Vec<u16> = c.identity.ports.iter().map(|p| p.relative_id).collect();
    put_group(&mut out, c.identity.port_group, c.lu.access, &local);
    for group in &c.lu.remote {
        put_group(&mut out, group.id, group.access, &group.ports);
    }
    let len = out.len() - 4;
    out.set32(0, len);
    Context::data(out, c.length32(6))
}

fn put_group(out: &mut Vec<u8>, id: u16, access: LuAccess, ports: &[u16]) {
    let ports = &ports[..ports.len().min(255)];
    out.put8(access_state(access));
    out.put8(0x08 | 0x04 | 0x02 | 0x01); // unavailable, standby, both active states
    out.put16(id);
    out.put8(0);
    out.put8(if access == LuAccess::Active { 0 } else { 0x02 }); // altered by implicit behaviour
    out.put8(0);
    out.put8(ports.len() as u8);
    for port in ports {
        out.put16(0);
        out.put16(*port);
    }
}

/// Length of a command timeouts descriptor; no timeouts are recommended.
const TIMEOUTS: usize = 12;

fn put_timeouts(out: &mut Vec<u8>) {
    out.put16(TIMEOUTS as u16 - 2);
    out.zeros(TIMEOUTS - 2);
}

pub(crate) fn supported_operation_codes(c: &mut Context<'_>) -> Run {
    let (options, timeouts) = (c.cdb.u8_at(2) & 0x07, c.cdb.bit_at(2, 7));
    let (opcode, action) = (c.cdb.u8_at(3), c.cdb.u16_at(4));
    let exists = |row: &&Row| !row.thin || c.lu.thin;
    let with_actions = rows(opcode).iter().any(|row| row.action.is_some());
    let out = match options {
        0 => all_commands(TABLE.iter().filter(exists), timeouts),
        1 if with_actions => return Err(Sense::cdb_field(2, Some(2)).into()),
        2 if !with_actions && !rows(opcode).is_empty() => return Err(Sense::cdb_field(2, Some(2)).into()),
        1..=3 => {
            let chosen = rows(opcode).iter().filter(exists).find(|row| match row.action {
                Some(own) => u16::from(own) == action,
                None => options == 1 || action == 0,
            });
            one_command(chosen, timeouts)
        }
        _ => return Err(Sense::cdb_field(2, Some(2)).into()),
    };
    Context::data(out, c.length32(6))
}

fn all_commands(rows: impl Iterator<Item = &'static Row>, timeouts: bool) -> Vec<u8> {
    let mut out = vec![0; 4];
    for row in rows {
        out.put8(row.opcode);
        out.put8(0);
        out.put16(u16::from(row.action.unwrap_or(0)));
        out.put8(0);
        out.put8(u8::from(timeouts) << 1 | u8::from(row.action.is_some()));
        out.put16(row.usage.len() as u16);
        if timeouts {
            put_timeouts(&mut out);
        }
    }
    let len = out.len() - 4;
    out.set32(0, len);
    out
}

fn one_command(row: Option<&Row>, timeouts: bool) -> Vec<u8> {
    let Some(row) = row else {
        return vec![0, 0x01, 0, 0]; // not supported
    };
    let mut out = vec![0, u8::from(timeouts) << 7 | 0x03]; // as a standard has it
    out.put16(row.usage.len() as u16);
    let start = out.len();
    out.extend_from_slice(row.usage);
    if let Some(action) = row.action {
        out[start + 1] |= action;
    }
    if timeouts {
        put_timeouts(&mut out);
    }
    out
}

pub(crate) fn supported_task_management(c: &mut Context<'_>) -> Run {
    // Abort task, abort task set, clear ACA, clear task set, LU reset, query task, target reset.
    let functions = 0x80 | 0x40 | 0x20 | 0x10 | 0x08 | 0x04 | 0x02;
    // Query asynchronous event, query task set, I_T nexus reset.
    let mut out = vec![functions, 0x04 | 0x02 | 0x01, 0, 0];
    if c.cdb.bit_at(2, 7) {
        out[3] = 0x0C;
        out.zeros(12);
    }
    Context::data(out, c.length32(6))
}

pub(crate) fn read_defect_data_10(c: &mut Context<'_>) -> Run {
    // The lists that were asked for are there, and empty.
    Context::data(vec![0, c.cdb.u8_at(2) & 0x1F, 0, 0], c.length16(7))
}

pub(crate) fn read_defect_data_12(c: &mut Context<'_>) -> Run {
    Context::data(vec![0, c.cdb.u8_at(1) & 0x1F, 0, 0, 0, 0, 0, 0], c.length32(6))
}
