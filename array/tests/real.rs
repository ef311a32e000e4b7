//! The same on real engines: files in a temporary folder, and disks in memory.

mod common;

use common::{MIB, flush, get, put, read, write};
use twinlun_array::{Array, DiskConfig, LuSpec, Raid};
use twinlun_io::{EngineChoice, run_shard};

const GIB: u64 = 1 << 30;

fn on_engines(test: impl AsyncFn(twinlun_io::Shard) + Copy) {
    for choice in [EngineChoice::Auto, EngineChoice::Portable] {
        run_shard(choice, |shard| async move { test(shard).await }).expect("the engine runs");
    }
}

#[test]
fn a_unit_on_sparse_files_keeps_its_data_and_takes_little_space() {
    on_engines(async |shard| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let disks = || {
            let config = |disk| DiskConfig { path: folder.path().join(disk), size: Some(64 * GIB) };
            vec![config("a.img"), config("b.img")]
        };
        let array = Array::open(shard.clone(), "east", disks()).await.expect("opens");
        let info = array.create_lu(LuSpec::new("data", 60 * GIB, Raid::Raid1)).await.expect("there is room");
        let lu = array.lu(info.uuid).expect("it is bound");
        for at in [0, 30 * GIB, 60 * GIB - MIB] {
            assert_eq!(read(&lu, at, MIB).await.expect("reads"), vec![0; MIB as usize]);
            write(&lu, at, vec![3; MIB as usize], false).await.expect("writes");
        }
        flush(&lu).await.expect("flushes");
        assert!(put(&array.vault(), "k", 5).await);
        array.shutdown().await.expect("stops");
        let array = Array::open(shard.clone(), "east", disks()).await.expect("opens again");
        let lu = array.lu_by_name("data").expect("it is still bound");
        assert_eq!((lu.info().dirty_bytes, get(&array.vault(), "k")), (0, 5));
        for at in [0, 30 * GIB, 60 * GIB - MIB] {
            assert_eq!(read(&lu, at, MIB).await.expect("reads"), vec![3; MIB as usize]);
        }
        array.shutdown().await.expect("stops");
    });
}

#[test]
fn disks_in_memory_need_nothing_else() {
    for kind in ["ram", "null"] {
        on_engines(async |shard| {
            let path = format!("{kind}:array-test").into();
            let disks = vec![DiskConfig { path, size: Some(64 * MIB) }];
            let array = Array::open(shard.clone(), "east", disks).await.expect("opens");
            array.create_lu(LuSpec::new("data", 8 * MIB, Raid::Raid0)).await.expect("there is room");
            let lu = array.lu_by_name("data").expect("it is bound");
            write(&lu, 4096, vec![1; 8192], true).await.expect("writes");
            let expected = if kind == "ram" { 1 } else { 0 };
            assert_eq!(read(&lu, 4096, 8192).await.expect("reads"), vec![expected; 8192]);
            assert!(put(&array.vault(), "k", 1).await);
            assert_eq!(get(&array.vault(), "k"), 1);
            array.delete_lu(lu.uuid()).await.expect("is deleted"); // Memory outlives the engine.
            array.shutdown().await.expect("stops");
        });
    }
}
