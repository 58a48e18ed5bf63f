use super::*;

/// A kernel that knows even indices only: it stops at the first odd one.
fn known(msrs: &[kvm_msr_entry]) -> usize {
    msrs.iter().take_while(|m| m.index % 2 == 0).count()
}

#[test]
fn reading_leaves_out_what_does_not_exist() {
    let get = |msrs: &mut Msrs| {
        let count = known(msrs.as_slice());
        msrs.as_mut_slice().iter_mut().take(count).for_each(|m| m.data = u64::from(m.index) * 10);
        Ok(count)
    };

    let found = read_some(&[2, 3, 4, 5, 7, 8], get);

    let value = |index| MsrValue { index, value: u64::from(index) * 10 };
    assert_eq!(found, [value(2), value(4), value(8)]);
}

#[test]
fn reading_more_than_one_call_takes_is_split() {
    let wanted: Vec<u32> = (0..1000).map(|n| n * 2).collect();
    let mut calls = 0;

    let found = read_some(&wanted, |msrs| {
        calls += 1;
        Ok(known(msrs.as_slice()))
    });

    assert_eq!(found.len(), 1000);
    assert_eq!(calls, 4);
}

#[test]
fn writing_goes_on_behind_a_refused_register() {
    let values: Vec<_> = [2, 3, 4, 6].map(|index| MsrValue { index, value: 1 }).into();
    let mut written = Vec::new();

    let refused = write_all(&values, |msrs| {
        let count = known(msrs.as_slice());
        written.extend(msrs.as_slice().iter().take(count).map(|m| m.index));
        Ok(count)
    });

    assert_eq!(written, [2, 4, 6]);
    assert_eq!(refused, [MsrValue { index: 3, value: 1 }]);
}

#[test]
fn kernel_that_fails_outright_ends_the_reading() {
    let found = read_some(&[2, 4, 6], |_| Err(kvm_ioctls::Error::new(libc::EFAULT)));

    assert!(found.is_empty());
}
