/**
 * The Debian packages that agents, tests and the lab use, and why.
 *
 * The guest's kernel and its agent are not here: installing them would change the machine's /boot and services, so
 * they are downloaded and unpacked into the cache instead.
 */
export const packages: readonly string[] = [
  'qemu-system-x86', // runs the guests
  'seabios', // what they boot with; only recommended by the package above
  'qemu-utils', // qemu-img, qemu-io, qemu-storage-daemon
  'qemu-block-extra', // rbd and other network disks
  'libvirt-daemon-system', // libvirtd
  'libvirt-daemon-driver-qemu', // its hypervisor driver
  'libvirt-clients', // virsh
  'ovmf', // UEFI for guests
  'swtpm', // the TPM of guests
  'swtpm-tools', // swtpm_setup, which libvirt makes one with
  'libnbd-bin', // nbdinfo, nbdcopy
  'ceph-common', // ceph, rbd, mount.ceph
  'ceph-mon', // a cluster for RBD disks and CephFS, on this machine
  'ceph-mgr', // its manager
  'ceph-osd', // its store, in memory
  'ceph-mds', // its file system
  'ceph-fuse', // mounts CephFS where the kernel cannot
  'age', // opens key files the way an operator without Holdfast does
  'busybox-static', // all programs of the guest, and what packs its initramfs
  'e2fsprogs', // the guest's file systems
  'python3-fusepy', // a file system with faults, as a NAS has them
  'iproute2', // tests that cut a network
  'jq', // reads manifests in the documented restore by hand
  'rsync', // copies a backup the way CloudStack restores one
  'systemd', // process 1 of a micro-VM, and systemd-run and systemd-notify in it
  'util-linux', // unshare, nsenter, mount
];
