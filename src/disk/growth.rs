//! How large the file becomes: within its bound, no larger than it need be, and what happens where it cannot grow.

use super::backend::{Ceiling, Fuse, Limits};
use super::bulk::{Batch, Bulk, Meta, grown_bytes};
use super::kit::{key, opened, options, until};
use super::{Disk, DiskOptions, DiskState};

#[test]
fn a_bound_that_is_lowered_holds_soon_and_what_was_written_last_stays() {
    let temp = tempfile::tempdir().unwrap();
    let options = DiskOptions { queue_bytes_max: 8 << 20, ..options() };
    let (disk, first) = opened(temp.path(), options.clone(), Fuse::none());
    let fill = |disk: &Disk, from: u64, to: u64| {
        for number in from..to {
            disk.put(&until(&format!("a:{number}"), &vec![1; 20_000], first + number, 1000));
            if number % 100 == 0 {
                disk.flush().unwrap();
            }
        }
        disk.flush().unwrap();
    };
    fill(&disk, 0, 1200);
    assert!(disk.status().file_bytes > 24 << 20);
    disk.set_bytes_max(16 << 20);
    disk.tidy().unwrap();
    let status = disk.status();
    assert!(status.file_bytes <= 16 << 20 && status.live_bytes > 6 << 20, "{status:?}");
    assert_eq!(status.state, DiskState::Healthy);
    assert!(disk.get(key("a:1199")).is_some() && disk.get(key("a:0")).is_none());
    fill(&disk, 1200, 2400);
    let status = disk.status();
    assert!(status.file_bytes <= 16 << 20 && status.live_bytes > 6 << 20, "{status:?}");
    assert!(disk.get(key("a:2399")).is_some());
    disk.close().unwrap();
    drop(disk);
    // The same for a bound that was lowered while nothing ran.
    let options = DiskOptions { bytes_max: 8 << 20, ..options };
    let (disk, _) = opened(temp.path(), options, Fuse::none());
    disk.tidy().unwrap();
    assert!(disk.status().file_bytes <= 8 << 20, "{:?}", disk.status());
    assert!(disk.get(key("a:2399")).is_some());
}

#[test]
fn a_nearly_full_file_is_still_full_after_a_stop_and_a_start() {
    let temp = tempfile::tempdir().unwrap();
    let options = DiskOptions { bytes_max: 40 << 20, queue_bytes_max: 8 << 20, ..options() };
    let (disk, first) = opened(temp.path(), options.clone(), Fuse::none());
    for number in 0..1100 {
        disk.put(&until(&format!("a:{number}"), &vec![1; 20_000], first + number, 1000));
        if number % 100 == 0 {
            disk.flush().unwrap();
        }
    }
    disk.close().unwrap();
    drop(disk);
    let (disk, again) = opened(temp.path(), options, Fuse::none());
    let before = disk.status();
    for number in 0..20 {
        disk.put(&until(&format!("b:{number}"), &vec![1; 20_000], again + number, 1000));
        disk.flush().unwrap();
    }
    disk.tidy().unwrap();
    let after = disk.status();
    assert_eq!((before.evicted, after.evicted), (0, 0), "{after:?}");
    assert_eq!(after.state, DiskState::Healthy);
}

#[test]
fn the_file_is_not_much_larger_than_what_lives_after_churn_a_stop_and_a_start_that_only_reads() {
    let temp = tempfile::tempdir().unwrap();
    let options = DiskOptions { bytes_max: 256 << 20, queue_bytes_max: 8 << 20, ..options() };
    let (disk, first) = opened(temp.path(), options.clone(), Fuse::none());
    // Each of 1000 keys about ten times, in no order.
    for number in 0..10_000_u64 {
        let which = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33;
        disk.put(&until(&format!("a:{}", which % 1000), &vec![1; 16_000], first + number, 1000));
        if number % 250 == 0 {
            disk.flush().unwrap();
        }
    }
    disk.close().unwrap();
    drop(disk);
    for _ in 0..2 {
        let (disk, _) = opened(temp.path(), options.clone(), Fuse::none());
        for number in 0..1000 {
            assert!(disk.get(key(&format!("a:{number}"))).is_some());
        }
        // What is done while nobody writes; twice, because the first may leave something to do.
        disk.tidy().unwrap();
        disk.tidy().unwrap();
        let status = disk.status();
        assert!(status.file_bytes <= status.live_bytes / 10 * 15 + (1 << 20), "{status:?}");
        disk.close().unwrap();
    }
    let (disk, again) = opened(temp.path(), options, Fuse::none());
    disk.put(&until("a:0", b"the first write", again, 1000));
    disk.flush().unwrap();
    let status = disk.status();
    assert!(status.file_bytes <= status.live_bytes / 10 * 17 + (2 << 20), "redb would double it: {status:?}");
}

#[test]
fn a_file_is_grown_by_what_is_needed_an_eighth_at_least_and_within_its_bound() {
    const MIB: u64 = 1 << 20;
    for (max, file, stored, incoming, grown) in [
        (2000 * MIB, 100 * MIB, 50 * MIB, MIB, None),
        (2000 * MIB, 100 * MIB, 90 * MIB, MIB, Some(113 * MIB + MIB / 4)),
        (2000 * MIB, 80 * MIB, 80 * MIB, 8 * MIB, Some(123 * MIB)),
        (110 * MIB, 100 * MIB, 90 * MIB, MIB, Some(110 * MIB)),
        (100 * MIB, 100 * MIB, 90 * MIB, MIB, None),
        // redb doubles small ones.
        (2000 * MIB, MIB, MIB, MIB, None),
        (8 * MIB, 4 * MIB, 3 * MIB, MIB, Some(8 * MIB)),
        (u64::MAX, 4096 * MIB, 4000 * MIB, MIB, Some(4608 * MIB)),
    ] {
        assert_eq!(grown_bytes(max, file, stored, incoming), grown, "{max} {file} {stored} {incoming}");
    }
}

/// Puts so many of 40 kB from `number` on, and flushes.
pub(super) fn put_large(disk: &Disk, first: u64, number: u64, count: u64) -> crate::Result<()> {
    for number in number..number + count {
        disk.put(&until(&format!("a:{number}"), &vec![1; 40_000], first + number, 1000));
    }
    disk.flush()
}

/// Whether the file is made larger before so much is written.
fn is_to_grow(disk: &Disk, incoming_bytes: u64) -> bool {
    let stored_bytes = disk.shared.catalog.read().sums.stored_bytes;
    grown_bytes(disk.shared.options().bytes_max, disk.status().file_bytes, stored_bytes, incoming_bytes)
        .is_some()
}

#[test]
fn a_file_that_cannot_grow_is_used_as_it_is_and_says_why_when_it_is_full() {
    let (temp, fuse) = (tempfile::tempdir().unwrap(), Fuse::hasty());
    let options = DiskOptions { queue_bytes_max: 8 << 20, ..options() };
    let (disk, first) = opened(temp.path(), options, fuse.clone());
    let mut number = 0;
    while number < 300 {
        put_large(&disk, first, number, 50).unwrap();
        number += 50;
    }
    fuse.set_full(true);
    let mut in_vain = 0;
    loop {
        let is_to_grow = is_to_grow(&disk, 400_000);
        let flushed = put_large(&disk, first, number, 10);
        number += 10;
        if flushed.is_err() {
            break;
        }
        in_vain += u64::from(is_to_grow);
        assert!(number < 3000, "it grows all the same");
        assert_eq!(disk.status().state, DiskState::Healthy);
        assert!(disk.get(key("a:1")).is_some() && disk.get(key(&format!("a:{}", number - 1))).is_some());
    }
    assert!(in_vain > 0, "there were free pages");
    let DiskState::Degraded(reason) = disk.status().state else { panic!("{:?}", disk.status()) };
    assert!(reason.contains("no space left"), "{reason}");
    fuse.set_full(false);
    disk.flush().or_else(|_| disk.flush()).unwrap();
    assert_eq!(disk.status().state, DiskState::Healthy);
    assert!((0..number).all(|number| disk.get(key(&format!("a:{number}"))).is_some()));
}

#[test]
fn a_disk_that_fails_at_any_write_of_a_growth_undoes_nothing_and_recovers() {
    let (temp, fuse) = (tempfile::tempdir().unwrap(), Fuse::hasty());
    let options = DiskOptions { bytes_max: 256 << 20, queue_bytes_max: 8 << 20, ..options() };
    let (disk, first) = opened(temp.path(), options, fuse.clone());
    put_large(&disk, first, 0, 150).unwrap();
    put_large(&disk, first, 150, 150).unwrap();
    let (mut number, mut failed) = (300, 0);
    for writes in (0..18).step_by(2) {
        while !is_to_grow(&disk, 400_000) && number < 3000 {
            put_large(&disk, first, number, 10).unwrap();
            number += 10;
        }
        fuse.set(writes);
        let flushed = put_large(&disk, first, number, 10);
        number += 10;
        if flushed.is_err() {
            failed += 1;
            let DiskState::Degraded(reason) = disk.status().state else { panic!("{:?}", disk.status()) };
            assert!(reason.contains("no space left"), "{reason}");
        }
        fuse.set(u64::MAX);
        disk.flush().or_else(|_| disk.flush()).unwrap();
        assert_eq!(disk.status().state, DiskState::Healthy);
        assert!(disk.get(key(&format!("a:{}", number - 1))).is_some(), "after {writes} writes");
    }
    let lost = (0..number).find(|number| disk.get(key(&format!("a:{number}"))).is_none());
    assert_eq!((lost, disk.status().evicted), (None, 0));
    assert!(failed > 4, "{failed}");
}

#[test]
fn a_bound_that_is_no_doubling_of_a_small_file_is_made_use_of() {
    for bytes_max in [24_u64 << 20, 50_000_000, 100_000_000] {
        let temp = tempfile::tempdir().unwrap();
        let options = DiskOptions { bytes_max, queue_bytes_max: 8 << 20, ..options() };
        let (disk, first) = opened(temp.path(), options, Fuse::hasty());
        for number in 0..bytes_max / 2 / 10_000 {
            disk.put(&until(&format!("a:{number}"), &vec![1; 9900], first + number, 1000));
            if number % 200 == 0 {
                disk.flush().unwrap();
            }
        }
        disk.flush().unwrap();
        let status = disk.status();
        assert!(status.evicted == 0 && status.file_bytes <= bytes_max, "{bytes_max}: {status:?}");
    }
}

/// redb lays a file out in regions of 4 GiB and adds whole ones by itself.
#[test]
fn a_file_is_grown_beyond_four_gigabytes_to_any_number_of_pages() {
    const PAGE: u64 = 4096;
    const REGION: u64 = 4 << 30;
    let temp = tempfile::tempdir().unwrap();
    let (path, limits) = (
        temp.path().join("cache.redb"),
        Limits { file_bytes_max: Ceiling::new(u64::MAX), page_cache_bytes: 1 << 20, fuse: Fuse::none() },
    );
    let mut bulk = Bulk::create(&path, &limits, 7).unwrap();
    let mut meta = Meta { store: 7, ..Meta::default() };
    // The file is full of holes and takes next to nothing. A region ends one page after a multiple of its size.
    for bytes in [REGION - PAGE, REGION, REGION + PAGE, REGION + 2 * PAGE, 2 * REGION + 77 * PAGE, 5 * REGION]
    {
        let (grown, found, fault) = bulk.grow(&path, &limits, bytes).unwrap();
        assert!(fault.is_none(), "{fault:?}");
        assert_eq!((found, std::fs::metadata(&path).unwrap().len()), (meta, bytes));
        meta.commit += 1;
        grown.commit(&Batch::default(), &meta).unwrap();
        // Which gives back what is half free.
        assert!(std::fs::metadata(&path).unwrap().len() <= bytes);
        bulk = grown;
    }
}
