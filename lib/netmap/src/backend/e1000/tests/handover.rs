//! Devices that are found, taken and given back: sysfs is a directory, and a kernel answers to what is written there.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::backend::e1000::binding::{Binding, Handler};
use crate::backend::e1000::mark::Mark;
use crate::backend::e1000::mark::tests::{MARK, mark_in};
use crate::backend::e1000::sysfs::PciDevice;
use crate::backend::e1000::*;
use crate::error::{Errno, InUse, Privilege};
use crate::kinds;

struct Tree(TempDir);

const ADDRESS: &str = "0000:00:03.0";

impl Tree {
    fn new(driver: Option<&str>, has_uio: bool) -> Self {
        let handlers: &[_] = if has_uio { &["uio_pci_generic"] } else { &[] };
        Self::with(driver, handlers)
    }

    fn with(driver: Option<&str>, handlers: &[&str]) -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        let device = tree.device("");
        fs::create_dir_all(&device).unwrap();
        for (file, text) in [
            ("vendor", "0x8086\n"),
            ("device", "0x100e\n"),
            ("subsystem_device", "0x1101\n"),
            ("driver_override", "(null)\n"),
            ("enable", "0\n"),
        ] {
            fs::write(device.join(file), text).unwrap();
        }
        let drivers = tree.0.path().join("bus/pci/drivers");
        for driver in ["e1000"].iter().chain(handlers) {
            fs::create_dir_all(drivers.join(driver)).unwrap();
            fs::write(drivers.join(driver).join("unbind"), "").unwrap();
        }
        fs::write(tree.0.path().join("bus/pci/drivers_probe"), "").unwrap();
        if let Some(driver) = driver {
            fs::create_dir_all(drivers.join(driver)).unwrap();
            fs::write(drivers.join(driver).join("unbind"), "").unwrap();
            bind(tree.0.path(), driver);
        }
        tree
    }

    /// Behind an IOMMU of that kind, with others in the group and the drivers that they have.
    fn behind(self, kind: &str, others: &[(&str, Option<&str>)]) -> Self {
        let devices = self.0.path().join("bus/pci/devices");
        let group = self.0.path().join("kernel/iommu_groups/5");
        fs::create_dir_all(group.join("devices")).unwrap();
        fs::write(group.join("type"), format!("{kind}\n")).unwrap();
        symlink("../../../../kernel/iommu_groups/5", self.device("iommu_group")).unwrap();
        for (other, driver) in others.iter().chain(&[(ADDRESS, None)]) {
            fs::create_dir_all(devices.join(other)).unwrap();
            let link = group.join("devices").join(other);
            symlink(format!("../../../../bus/pci/devices/{other}"), link).unwrap();
            if let Some(driver) = driver {
                symlink(format!("../../drivers/{driver}"), devices.join(other).join("driver"))
                    .unwrap();
            }
        }
        self
    }

    /// What a killed program leaves.
    fn leave_mark(&self) {
        fs::write(self.0.path().join(MARK), "").unwrap();
    }

    fn is_marked(&self) -> bool {
        self.0.path().join(MARK).exists()
    }

    fn device(&self, file: &str) -> PathBuf {
        self.0.path().join("bus/pci/devices").join(ADDRESS).join(file)
    }

    fn open(&self) -> PciDevice {
        let address = kinds::parse(&format!("e1000:{ADDRESS}")).unwrap().pci().unwrap();
        let mut device = PciDevice::open(self.0.path(), address).unwrap().unwrap();
        device.kernel = Some(kernel);
        device
    }

    fn driver(&self) -> Option<String> {
        self.open().driver().unwrap()
    }

    fn set_up(&self, up: bool) {
        fs::write(self.device("net/eth7/flags"), if up { "0x1003\n" } else { "0x1002\n" }).unwrap();
    }
}

fn device_of(root: &Path) -> PathBuf {
    root.join("bus/pci/devices").join(ADDRESS)
}

/// What the kernel does when a driver gets a device.
fn bind(root: &Path, driver: &str) {
    let device = device_of(root);
    let _ = fs::remove_file(device.join("driver")); // of a driver that was unloaded
    symlink(format!("../../drivers/{driver}"), device.join("driver")).unwrap();
    match driver {
        "e1000" => {
            fs::create_dir_all(device.join("net/eth7")).unwrap();
            fs::write(device.join("net/eth7/flags"), "0x1002\n").unwrap();
        }
        "uio_pci_generic" => fs::create_dir_all(device.join("uio/uio4")).unwrap(),
        _ => {}
    }
}

/// What it does when somebody writes to its files.
fn kernel(root: &Path, path: &str, text: &str) {
    let device = device_of(root);
    if path.ends_with("driver_override") {
        fs::write(root.join(path), text).unwrap(); // in the place of what was there
    } else if path.ends_with("driver/unbind") {
        assert_eq!(text, ADDRESS);
        fs::remove_file(device.join("driver")).unwrap();
        for made in ["net", "uio"] {
            let _ = fs::remove_dir_all(device.join(made));
        }
    } else if path.ends_with("drivers_probe") {
        assert_eq!(text, ADDRESS);
        assert!(!device.join("driver").exists(), "a device with a driver is not probed");
        let wanted = fs::read_to_string(device.join("driver_override")).unwrap();
        match wanted.trim() {
            "" | "(null)" => bind(root, "e1000"),
            _ if device.join("refuses").exists() && wanted != "\n" => {}
            other => bind(root, other),
        }
    }
}

/// A device in somebody's hands, and then the mark.
#[derive(Debug)]
struct Taken {
    binding: Binding,
    _mark: Mark,
}

fn take(tree: &Tree, handler: Handler, force: bool) -> Result<Taken> {
    let mut mark = mark_in(tree.0.path())?;
    let binding = Binding::take("e1000:x", tree.open(), handler, Some(&mark), force)?;
    mark.settle();
    Ok(Taken { binding, _mark: mark })
}

fn override_of(tree: &Tree) -> String {
    fs::read_to_string(tree.device("driver_override")).unwrap().trim().to_owned()
}

#[test]
fn device_is_taken_from_the_kernel_and_goes_back() {
    for (handler, uio) in [(Handler::Uio, Some(4)), (Handler::Vfio, None)] {
        let tree = Tree::with(Some("e1000"), &["uio_pci_generic", "vfio-pci"]);
        let taken = take(&tree, handler, false).unwrap();
        assert_eq!(tree.driver().as_deref(), Some(handler.driver()));
        assert_eq!(taken.binding.uio(), uio);
        assert!(taken.binding.about().contains("had it as eth7"), "{}", taken.binding.about());
        assert!(tree.is_marked());
        drop(taken);
        assert_eq!(tree.driver().as_deref(), Some("e1000"));
        assert_eq!(override_of(&tree), "", "any driver may have it again");
        assert!(!tree.is_marked());
    }
}

#[test]
fn interface_that_is_up_is_taken_only_by_force() {
    let tree = Tree::new(Some("e1000"), true);
    tree.set_up(true);
    let error = take(&tree, Handler::Uio, false).unwrap_err();
    let by = InUse::Interface { interface: "eth7".to_owned() };
    assert!(matches!(&error, Error::Busy { by: is, .. } if *is == by), "{error}");
    assert_eq!(tree.driver().as_deref(), Some("e1000"), "nothing was changed");
    assert!(!tree.is_marked());
    drop(take(&tree, Handler::Uio, true).unwrap());
    assert_eq!(tree.driver().as_deref(), Some("e1000"));
}

#[test]
fn device_of_a_killed_program_goes_back_after_the_next() {
    // It was killed while the handler had the device, and between two drivers.
    for handler in [Handler::Uio, Handler::Vfio] {
        for driver in [Some(handler.driver()), None] {
            let tree = Tree::with(driver, &["uio_pci_generic", "vfio-pci"]);
            tree.leave_mark();
            fs::write(tree.device("driver_override"), format!("{}\n", handler.driver())).unwrap();
            let taken = take(&tree, handler, false).unwrap();
            assert_eq!(tree.driver().as_deref(), Some(handler.driver()));
            drop(taken);
            assert_eq!(tree.driver().as_deref(), Some("e1000"), "{driver:?}");
            assert_eq!(override_of(&tree), "");
            assert!(!tree.is_marked());
        }
    }
}

#[test]
fn device_that_the_operator_gave_to_the_handler_stays_there() {
    for handler in [Handler::Uio, Handler::Vfio] {
        let tree = Tree::with(Some(handler.driver()), &[]);
        drop(take(&tree, handler, false).unwrap());
        assert_eq!(tree.driver().as_deref(), Some(handler.driver()));
    }
}

#[test]
fn device_without_a_driver_has_none_afterwards() {
    for handler in [Handler::Uio, Handler::Vfio] {
        let tree = Tree::with(None, &["uio_pci_generic", "vfio-pci"]);
        let taken = take(&tree, handler, false).unwrap();
        assert_eq!(tree.driver().as_deref(), Some(handler.driver()));
        drop(taken);
        assert_eq!(tree.driver(), None);
        assert_eq!(override_of(&tree), "");
    }
}

#[test]
fn without_uio_the_device_has_no_driver_and_goes_back() {
    for refuses in [false, true] {
        let tree = Tree::new(Some("e1000"), refuses);
        if refuses {
            fs::write(tree.device("refuses"), "").unwrap();
        }
        let taken = take(&tree, Handler::Uio, false).unwrap();
        assert_eq!((taken.binding.uio(), tree.driver()), (None, None));
        let enabled = || fs::read_to_string(tree.device("enable")).unwrap();
        assert!(enabled().starts_with('1'));
        drop(taken);
        assert!(enabled().starts_with('0'));
        assert_eq!(tree.driver().as_deref(), Some("e1000"));
        assert!(matches!(override_of(&tree).as_str(), "" | "(null)"));
    }
}

#[test]
fn device_that_vfio_refuses_goes_back() {
    let tree = Tree::with(Some("e1000"), &["vfio-pci"]);
    fs::write(tree.device("refuses"), "").unwrap();
    let error = take(&tree, Handler::Vfio, false).unwrap_err();
    let errors = format!("{error}: {:?}", std::error::Error::source(&error));
    assert!(errors.contains("does not take the device"), "{errors}");
    assert_eq!(tree.driver().as_deref(), Some("e1000"));
    assert_eq!(override_of(&tree), "");
    assert!(!tree.is_marked());
}

/// The driver went while we were about to unbind the device from it.
#[test]
fn device_whose_handler_was_unloaded_goes_back() {
    let tree = Tree::with(Some("e1000"), &["vfio-pci"]);
    let taken = take(&tree, Handler::Vfio, false).unwrap();
    fs::remove_dir_all(tree.0.path().join("bus/pci/drivers/vfio-pci")).unwrap();
    drop(taken);
    assert_eq!(tree.driver().as_deref(), Some("e1000"));
    assert_eq!(override_of(&tree), "");
}

#[test]
fn device_of_another_driver_is_left_alone() {
    for (driver, handler) in [("vfio-pci", Handler::Uio), ("uio_pci_generic", Handler::Vfio)] {
        let tree = Tree::with(Some(driver), &["uio_pci_generic", "vfio-pci"]);
        let error = take(&tree, handler, true).unwrap_err();
        assert!(error.to_string().contains(&format!("driver {driver} has it")), "{error}");
        assert_eq!(tree.driver().as_deref(), Some(driver));
    }
}

/// Behind an IOMMU there is a mark where there is something to give back, and only there: it takes root.
#[test]
fn device_that_is_vfios_already_needs_no_mark() {
    let mark = |tree: &Tree| {
        let directory = fs::File::open(tree.0.path()).unwrap().into();
        translated::mark("e1000:x", &tree.open(), directory, Privilege::Vfio { group: 5 })
    };
    for driver in [Some("e1000"), None] {
        let tree = Tree::with(driver, &["vfio-pci"]);
        assert!(!mark(&tree).unwrap().unwrap().is_left());
    }
    let tree = Tree::with(Some("vfio-pci"), &[]);
    assert!(mark(&tree).unwrap().is_none());
    assert!(!tree.is_marked());
    let binding = Binding::take("e1000:x", tree.open(), Handler::Vfio, None, false).unwrap();
    drop(binding);
    assert_eq!(tree.driver().as_deref(), Some("vfio-pci"));
    tree.leave_mark();
    let held = mark(&tree).unwrap().unwrap();
    assert!(held.is_left());
    assert!(matches!(mark(&tree), Err(Error::Busy { by: InUse::Nic, .. })));
}

/// It was VFIO's when we looked, so there is no mark, and the kernel has it now.
#[test]
fn nothing_is_taken_without_a_mark() {
    for driver in [Some("e1000"), None] {
        let tree = Tree::with(driver, &["vfio-pci"]);
        let taken = Binding::take("e1000:x", tree.open(), Handler::Vfio, None, true);
        assert!(matches!(taken, Err(Error::Busy { by: InUse::Nic, .. })), "{taken:?}");
        assert_eq!(tree.driver().as_deref(), driver);
    }
}

#[test]
fn group_with_another_device_in_use_is_refused_by_name() {
    let around = |others: &[(&str, Option<&str>)]| {
        let tree = Tree::new(Some("e1000"), false).behind("DMA-FQ", others);
        translated::look_around("e1000:x", &tree.open(), 5)
    };
    around(&[]).unwrap();
    around(&[("0000:00:03.1", None), ("0000:00:03.2", Some("vfio-pci"))]).unwrap();
    around(&[("0000:00:03.1", Some("pci-stub")), ("0000:00:1c.0", Some("pcieport"))]).unwrap();
    let error = around(&[("0000:00:03.1", Some("vfio-pci")), ("0000:00:03.2", Some("e1000e"))]);
    let error = error.unwrap_err();
    assert_eq!(error.errno(), Errno::EBUSY);
    let text = error.to_string();
    assert!(text.contains("driver e1000e has 0000:00:03.2") && text.contains("(5)"), "{text}");
}

#[test]
fn way_to_a_device_depends_on_its_iommu_and_who_has_it() {
    let way = |driver, kind: Option<&str>| {
        let tree = Tree::with(driver, &["vfio-pci"]);
        let tree = if let Some(kind) = kind { tree.behind(kind, &[]) } else { tree };
        access(&tree.open()).unwrap()
    };
    let translated = Access::Translated { group: 5 };
    assert_eq!(way(Some("e1000"), None), Access::Physical);
    for kind in ["DMA", "DMA-FQ"] {
        assert_eq!(way(Some("e1000"), Some(kind)), translated);
        assert_eq!(way(None, Some(kind)), translated);
    }
    assert_eq!(way(Some("e1000"), Some("identity")), Access::Physical);
    assert_eq!(way(None, Some("identity")), Access::Physical);
    assert_eq!(way(Some("vfio-pci"), Some("identity")), translated);
}

#[test]
fn device_that_cannot_be_driven_is_named_with_the_reason() {
    let tree = Tree::new(Some("e1000"), true);
    let find = |name: &str| find(&kinds::parse(name).unwrap(), tree.0.path()).map(|found| found.1);
    let csb = "e1000:00:03.0@conf:driver=csb";
    assert_eq!(find("e1000:00:03.0").unwrap(), Discipline::Csb);
    assert_eq!(find(csb).unwrap(), Discipline::Csb);
    assert_eq!(find("e1000:00:03.0@conf:driver=plain").unwrap(), Discipline::Plain);
    fs::write(tree.device("subsystem_device"), "0x001e\n").unwrap();
    assert_eq!(find("e1000:00:03.0").unwrap(), Discipline::Combine);
    assert!(find(csb).unwrap_err().to_string().contains("offers no CSB"));
    fs::write(tree.device("device"), "0x10d3\n").unwrap();
    assert!(find("e1000:00:03.0").unwrap_err().to_string().contains("8086:10d3"));
    assert!(find("e1000:00:04.0").unwrap_err().to_string().contains("no such PCI device"));
}
