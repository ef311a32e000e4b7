//! Entries for fuzzing: what is read from disks and peers behind plain bytes. They panic when a property does not hold.

use uuid::Uuid;

use crate::decide::Generation;
use crate::protocol::Ask;
use crate::record::{
    Departed, Fracture, LocalRecord, LuRecord, MirrorRecord, PrimaryRecord, SecondaryRecord, VERSION, view,
};
use crate::region::{RegionLayout, RegionMap};
use crate::state::{MirrorState, Relation};
use crate::{Attributes, ImageAttributes, WritePolicy};

/// Valid records and messages, to start from.
pub fn samples() -> Vec<Vec<u8>> {
    let lu = |n: u128| LuRecord {
        uuid: Uuid::from_u128(n),
        name: format!("lu{n}"),
        size: 1 << 30,
        block_size: 512,
    };
    let generation = Generation { number: 1, id: Uuid::from_u128(8) };
    let record = MirrorRecord {
        version: VERSION,
        uuid: Uuid::from_u128(7),
        name: "payroll".into(),
        configuration: 3,
        state: MirrorState::Active,
        policy: WritePolicy::Sync,
        attributes: Attributes::default(),
        generation,
        ancestors: vec![generation],
        incarnation: 2,
        primary: PrimaryRecord { unit: "east".into(), lus: vec![lu(1), lu(2)] },
        secondaries: vec![SecondaryRecord {
            id: Uuid::from_u128(9),
            unit: "west".into(),
            lus: vec![lu(3), lu(4)],
            relation: Relation::Copying { full: true },
            fracture: Some(Fracture { ordered: false, reason: "link lost".into(), since_unix: 5 }),
            copy_total: 77,
            attributes: ImageAttributes::default(),
        }],
        departed: vec![Departed { unit: "north".into(), image: Uuid::from_u128(10) }],
    };
    let (mirror, image, epoch) = (record.uuid, Uuid::from_u128(9), 1 << 32);
    let asks = [
        Ask::Join { record: record.clone(), image, lus: vec!["lu3".into(), "lu4".into()] },
        Ask::Attach { record: record.clone(), image, epoch },
        Ask::BeginCopy { mirror, epoch, generation },
        Ask::CaughtUp { mirror, epoch, generation },
        Ask::Configure { record: record.clone() },
        Ask::Leave { mirror, image },
        Ask::Show { mirror },
    ];
    let local = LocalRecord { generation: Some(generation), consistent: true, epoch };
    let mut all = vec![record.encode().to_vec(), local.encode().to_vec()];
    all.extend(asks.iter().map(|ask| serde_json::to_vec(ask).expect("string keys only")));
    all
}

/// Reads bytes as every record and message there is. What is believed is stored again as the same. Says what they were.
pub fn record(bytes: &[u8]) -> String {
    let mut seen = String::new();
    match MirrorRecord::decode(bytes) {
        Ok(record) => {
            assert_eq!(
                MirrorRecord::decode(&record.encode()).as_ref(),
                Ok(&record),
                "a record survives the trip"
            );
            let _ = view(&record);
            seen.push_str(&format!(
                "record of {} LUs, {} secondaries ",
                record.primary.lus.len(),
                record.secondaries.len()
            ));
        }
        Err(error) => seen.extend(error.to_string().chars().filter(char::is_ascii_lowercase).take(40)),
    }
    if let Ok(local) = LocalRecord::decode(bytes) {
        assert_eq!(LocalRecord::decode(&local.encode()), Ok(local), "a record survives the trip");
        seen.push_str("local ");
    }
    match Ask::decode(bytes) {
        Ok(ask) => {
            let again = serde_json::to_vec(&ask).expect("string keys only");
            let again = Ask::decode(&again).expect("a message survives the trip");
            assert_eq!(format!("{again:?}"), format!("{ask:?}"));
            seen.extend(format!("{ask:?}").chars().take(8));
        }
        Err(error) => seen.extend(error.chars().filter(char::is_ascii_lowercase).take(40)),
    }
    seen
}

/// Reads a page of a region bitmap over a LU of `size` bytes with regions of `1 << shift`. A page that is refused changes nothing; one
/// that is believed is stored again with the same marks. `genuine` marks are stored first and `bytes` laid over that page from `at` on.
pub fn page(size: u64, shift: u32, number: u32, genuine: &[(u64, u64)], at: usize, bytes: &[u8]) -> String {
    const MAGIC: [u8; 4] = *b"FUZZ";
    let layout = RegionLayout::new(size.clamp(1, 1 << 40), shift.clamp(20, 40));
    let number = number % layout.pages();
    let mut map = RegionMap::new(layout);
    for (start, len) in genuine {
        let start = start % layout.regions();
        map.mark(&(start..start.saturating_add(len % 4096).min(layout.regions())));
    }
    let mut stored = map.encode(number, MAGIC, &[]).to_vec();
    let at = at % (stored.len() + 1);
    stored.truncate(stored.len().max(at));
    for (place, byte) in stored[at..].iter_mut().zip(bytes) {
        *place ^= byte;
    }
    let covered = stored.len() - at;
    stored.extend(bytes.iter().skip(covered));
    let mut read = RegionMap::new(layout);
    read.mark(&(0..layout.regions().min(3)));
    let before = read.bytes_marked();
    let outcome = read.decode(number, MAGIC, &stored);
    if outcome.is_err() {
        assert_eq!(read.bytes_marked(), before, "a refused page marks nothing");
    }
    let mut bytes_walked = 0;
    let mut from = 0;
    while let Some(run) = read.next_run(from, u64::MAX) {
        assert!(run.start >= from && run.end > run.start && run.end <= layout.regions());
        bytes_walked += layout.bytes(&run).len();
        from = run.end;
    }
    assert_eq!(bytes_walked, read.bytes_marked(), "the count is that of the marks");
    assert!(read.bytes_marked() <= size.clamp(1, 1 << 40));
    let mut again = RegionMap::new(layout);
    for page in 0..layout.pages() {
        again.decode(page, MAGIC, &read.encode(page, MAGIC, &[])).expect("an own page");
    }
    assert_eq!(again.bytes_marked(), read.bytes_marked());
    format!("{outcome:?} {}", u64::BITS - bytes_walked.leading_zeros())
}
