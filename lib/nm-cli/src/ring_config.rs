//! Slots and rings as pkt-gen's and vale-ctl's `-C` take them.
//!
//! Invariant: a number that is left out equals the one it is paired with; 0, or no number at all, stands for
//! the port's default, as in upstream's parser.

use std::str::FromStr;

/// Slots and rings of a port, in upstream's order; none means the library's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingConfig {
    /// Slots of each transmit ring.
    pub tx_slots: Option<u32>,
    /// Slots of each receive ring.
    pub rx_slots: Option<u32>,
    /// Transmit rings.
    pub tx_rings: Option<u16>,
    /// Receive rings.
    pub rx_rings: Option<u16>,
}

/// Why a configuration was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RingConfigError {
    /// More numbers than there are things to be configured.
    #[error("at most four numbers: TX_SLOTS,RX_SLOTS,TX_RINGS,RX_RINGS")]
    TooMany,
    /// A field that is no number.
    #[error("`{0}` is not a number")]
    NotANumber(String),
    /// A number of rings beyond all limits.
    #[error("{0} rings are more than a port can have")]
    TooManyRings(u32),
}

impl FromStr for RingConfig {
    type Err = RingConfigError;

    /// `1024`, `1024,2048`, `1024,2048,4`, `1024,2048,4,2`: a value left out follows the one it is
    /// paired with, and 0 asks for the default, as in upstream's parser.
    fn from_str(text: &str) -> Result<RingConfig, RingConfigError> {
        let mut values = [0u32; 4];
        let fields: Vec<&str> = text.split(',').collect();
        if fields.len() > values.len() {
            return Err(RingConfigError::TooMany);
        }
        for (value, field) in values.iter_mut().zip(&fields) {
            *value = field
                .trim()
                .parse()
                .map_err(|_| RingConfigError::NotANumber((*field).to_owned()))?;
        }
        if fields.len() < 2 {
            values[1] = values[0];
        }
        if fields.len() < 4 {
            values[3] = values[2];
        }
        let rings =
            |value: u32| u16::try_from(value).map_err(|_| RingConfigError::TooManyRings(value));
        Ok(RingConfig {
            tx_slots: Some(values[0]).filter(|&v| v > 0),
            rx_slots: Some(values[1]).filter(|&v| v > 0),
            tx_rings: Some(rings(values[2])?).filter(|&v| v > 0),
            rx_rings: Some(rings(values[3])?).filter(|&v| v > 0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_left_out_follow_their_pair() {
        let parse = |text: &str| text.parse::<RingConfig>();
        let all = RingConfig {
            tx_slots: Some(512),
            rx_slots: Some(256),
            tx_rings: Some(4),
            rx_rings: Some(2),
        };
        assert_eq!(parse("512,256,4,2"), Ok(all));
        assert_eq!(parse("512,256,4"), Ok(RingConfig { rx_rings: Some(4), ..all }));
        let slots = RingConfig { tx_slots: Some(512), rx_slots: Some(512), ..Default::default() };
        assert_eq!((parse("512"), parse("0,0,0,0")), (Ok(slots), Ok(RingConfig::default())));
        for bad in ["", "x", "512,,", "1,2,3,4,5", "1,1,70000", "-1"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
