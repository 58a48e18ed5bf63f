//! Status codes and sense data (SAM-6, 5.3; SPC-5, 4.4).

/// Status codes (SAM-6, table 27).
pub mod status {
    /// Done.
    pub const GOOD: u8 = 0x00;
    /// There is sense data.
    pub const CHECK_CONDITION: u8 = 0x02;
    /// Try again.
    pub const BUSY: u8 = 0x08;
    /// Another nexus holds a reservation.
    pub const RESERVATION_CONFLICT: u8 = 0x18;
}

/// Sense keys (SPC-5, table 51).
pub mod key {
    /// Nothing to report.
    pub const NO_SENSE: u8 = 0x0;
    /// The unit cannot be reached now.
    pub const NOT_READY: u8 = 0x2;
    /// The medium is at fault.
    pub const MEDIUM_ERROR: u8 = 0x3;
    /// The device is at fault.
    pub const HARDWARE_ERROR: u8 = 0x4;
    /// The command is at fault.
    pub const ILLEGAL_REQUEST: u8 = 0x5;
    /// Something happened that the initiator has to know.
    pub const UNIT_ATTENTION: u8 = 0x6;
    /// Writing is not allowed.
    pub const DATA_PROTECT: u8 = 0x7;
    /// Given up; trying again may help.
    pub const ABORTED_COMMAND: u8 = 0xb;
    /// Data differs.
    pub const MISCOMPARE: u8 = 0xe;
}

/// Why a command failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sense {
    /// Sense key, one of [`key`].
    pub key: u8,
    /// Additional sense code.
    pub asc: u8,
    /// Its qualifier.
    pub ascq: u8,
    /// The INFORMATION field: a block address, or where a comparison failed.
    pub information: Option<u64>,
    /// The byte of the command block that is at fault, where it is said: for [`INVALID_FIELD`] alone.
    pub field: Option<u8>,
}

const fn sense(key: u8, asc: u8, ascq: u8) -> Sense {
    Sense { key, asc, ascq, information: None, field: None }
}

/// All is well.
pub const NO_SENSE: Sense = sense(key::NO_SENSE, 0x00, 0x00);
/// The unit was stopped.
pub const NOT_STARTED: Sense = sense(key::NOT_READY, 0x04, 0x02);
/// There is no medium; the tray is closed.
pub const NO_MEDIUM: Sense = sense(key::NOT_READY, 0x3a, 0x01);
/// There is no medium; the tray is open.
pub const NO_MEDIUM_TRAY_OPEN: Sense = sense(key::NOT_READY, 0x3a, 0x02);
/// Nobody knows this command.
pub const INVALID_OPCODE: Sense = sense(key::ILLEGAL_REQUEST, 0x20, 0x00);
/// Past the end of the medium.
pub const LBA_OUT_OF_RANGE: Sense = sense(key::ILLEGAL_REQUEST, 0x21, 0x00);
/// A field of the command block.
pub const INVALID_FIELD: Sense = sense(key::ILLEGAL_REQUEST, 0x24, 0x00);
/// A field of the parameters.
pub const INVALID_PARAMETER: Sense = sense(key::ILLEGAL_REQUEST, 0x26, 0x00);
/// A field of the parameters has a value that cannot be.
pub const INVALID_PARAMETER_VALUE: Sense = sense(key::ILLEGAL_REQUEST, 0x26, 0x02);
/// The parameters end too early.
pub const PARAMETER_LENGTH: Sense = sense(key::ILLEGAL_REQUEST, 0x1a, 0x00);
/// There is no such logical unit.
pub const NO_LUN: Sense = sense(key::ILLEGAL_REQUEST, 0x25, 0x00);
/// There are no saved mode pages.
pub const NO_SAVING: Sense = sense(key::ILLEGAL_REQUEST, 0x39, 0x00);
/// A release of what is held otherwise.
pub const INVALID_RELEASE: Sense = sense(key::ILLEGAL_REQUEST, 0x26, 0x04);
/// No room for another registration.
pub const NO_REGISTRATION_ROOM: Sense = sense(key::ILLEGAL_REQUEST, 0x55, 0x04);
/// The medium cannot be read this way (READ CD of something else than data).
pub const WRONG_MODE: Sense = sense(key::ILLEGAL_REQUEST, 0x64, 0x00);
/// The medium must stay.
pub const REMOVAL_PREVENTED: Sense = sense(key::ILLEGAL_REQUEST, 0x53, 0x02);
/// The same, told by a drive that is not ready for it.
pub const REMOVAL_PREVENTED_NOT_READY: Sense = sense(key::NOT_READY, 0x53, 0x02);
/// The disk is read-only.
pub const WRITE_PROTECTED: Sense = sense(key::DATA_PROTECT, 0x27, 0x00);
/// The host has no room.
pub const SPACE_ALLOCATION: Sense = sense(key::DATA_PROTECT, 0x27, 0x07);
/// The host failed to read or write.
pub const IO_ERROR: Sense = sense(key::ABORTED_COMMAND, 0x00, 0x06);
/// The device has no memory for it.
pub const TARGET_FAILURE: Sense = sense(key::HARDWARE_ERROR, 0x44, 0x00);
/// Data differs.
pub const MISCOMPARE: Sense = sense(key::MISCOMPARE, 0x1d, 0x00);
/// Power on or reset.
pub const ATTENTION_RESET: Sense = sense(key::UNIT_ATTENTION, 0x29, 0x00);
/// The medium was taken out.
pub const ATTENTION_NO_MEDIUM: Sense = sense(key::UNIT_ATTENTION, 0x3a, 0x00);
/// Another medium is in.
pub const ATTENTION_MEDIUM_CHANGED: Sense = sense(key::UNIT_ATTENTION, 0x28, 0x00);
/// Mode parameters were changed by another nexus.
pub const ATTENTION_MODE_CHANGED: Sense = sense(key::UNIT_ATTENTION, 0x2a, 0x01);
/// The reservation was preempted.
pub const ATTENTION_RESERVATIONS_PREEMPTED: Sense = sense(key::UNIT_ATTENTION, 0x2a, 0x03);
/// The reservation was released.
pub const ATTENTION_RESERVATIONS_RELEASED: Sense = sense(key::UNIT_ATTENTION, 0x2a, 0x04);
/// The registration was preempted.
pub const ATTENTION_REGISTRATIONS_PREEMPTED: Sense = sense(key::UNIT_ATTENTION, 0x2a, 0x05);
/// The disk has another size.
pub const ATTENTION_CAPACITY_CHANGED: Sense = sense(key::UNIT_ATTENTION, 0x2a, 0x09);
/// Units came or went.
pub const ATTENTION_LUNS_CHANGED: Sense = sense(key::UNIT_ATTENTION, 0x3f, 0x0e);

/// Length of fixed-format sense data.
pub const FIXED_BYTES: usize = 18;

impl Sense {
    /// With an INFORMATION field.
    #[must_use]
    pub fn at(self, information: u64) -> Self {
        Self { information: Some(information), ..self }
    }

    /// With the byte of the command block that is at fault.
    #[must_use]
    pub fn in_byte(self, field: u8) -> Self {
        Self { field: Some(field), ..self }
    }

    /// The sense key specific field: which byte is at fault, in the command block and not in the parameters (SPC-5,
    /// 4.4.2.4.2).
    fn pointer(&self) -> Option<[u8; 3]> {
        self.field.map(|field| [0xc0, 0, field])
    }

    /// What an `errno` of the host means to an initiator.
    #[must_use]
    pub fn of_errno(errno: i32) -> Self {
        match errno {
            libc::ENOSPC | libc::EDQUOT => SPACE_ALLOCATION,
            libc::EROFS => WRITE_PROTECTED,
            libc::ENOMEM => TARGET_FAILURE,
            libc::ENOTSUP | libc::EINVAL => INVALID_FIELD,
            libc::ENOMEDIUM => NO_MEDIUM,
            _ => IO_ERROR,
        }
    }

    /// Fixed format (SPC-5, 4.4.3).
    #[must_use]
    pub fn fixed(&self) -> [u8; FIXED_BYTES] {
        let mut bytes = [0; FIXED_BYTES];
        bytes[0] = 0x70;
        bytes[2] = self.key;
        // A longer INFORMATION does not fit the format: then it is not valid.
        if let Some(Ok(information)) = self.information.map(u32::try_from) {
            bytes[0] |= 0x80;
            bytes[3..7].copy_from_slice(&information.to_be_bytes());
        }
        bytes[7] = 10;
        bytes[12] = self.asc;
        bytes[13] = self.ascq;
        if let Some(pointer) = self.pointer() {
            bytes[15..18].copy_from_slice(&pointer);
        }
        bytes
    }

    /// Descriptor format (SPC-5, 4.4.2).
    #[must_use]
    pub fn descriptor(&self) -> Vec<u8> {
        let mut bytes = vec![0x72, self.key, self.asc, self.ascq, 0, 0, 0, 0];
        if let Some(information) = self.information {
            bytes.extend([0x00, 0x0a, 0x80, 0x00]);
            bytes.extend(information.to_be_bytes());
        }
        if let Some([flags, high, low]) = self.pointer() {
            bytes.extend([0x02, 0x06, 0, 0, flags, high, low, 0]);
        }
        bytes[7] = u8::try_from(bytes.len() - 8).unwrap_or(0);
        bytes
    }
}
