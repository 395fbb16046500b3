#!/bin/bash
# Runs programs in a virtual machine whose kernel has version 2 of control groups only, without hardware support.
#
#   guest.sh KERNEL_FOLDER WORK_FOLDER COMMAND FILE...    COMMAND is run by bash; each FILE is there by the same path
#
# KERNEL_FOLDER is an unpacked linux-image package of Debian. The guest's disk holds this machine's programs that the
# driver and its tests use. What the guest prints is printed; its last line is "guest: ended with STATUS".
set -euo pipefail

kernel=$1 work=$2 command=$3
shift 3
root=$work/root initrd=$work/initrd
# A guest that has not ended by then hangs, in seconds.
LIMIT=420
PACKAGES="bash coreutils util-linux util-linux-extra mount e2fsprogs iproute2 nftables procps grep sed findutils mawk hostname
    kmod python3-minimal python3.11-minimal libpython3.11-minimal libpython3.11-stdlib libc6"
MODULES="virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk"

version=$(basename "$kernel"/lib/modules/*)
rm -rf "$root" "$initrd"
mkdir -p "$root"/usr/{bin,sbin,lib,lib64} "$root"/{dev,etc,home,mnt,opt,proc,root,run,sys,tmp} "$root"/var/{lib,log,tmp}
mkdir -p "$initrd"/{bin,dev,modules,new,proc}
for folder in bin lib lib64 sbin; do ln -s usr/$folder "$root/$folder"; done

copy() { tar -C / --no-recursion --ignore-failed-read -T - -cf - 2>/dev/null | tar -C "$root" --keep-directory-symlink -xf -; }

files=$(for package in $PACKAGES; do dpkg -L "$package" 2>/dev/null || true; done | sort -u |
    grep -v '/share/\(doc\|man\|locale\)/' | while read -r file; do [ -d "$file" ] && [ ! -L "$file" ] || echo "$file"; done)
libraries=$(for file in $files "$@"; do [ -f "$file" ] && [ -x "$file" ] && ldd "$file" 2>/dev/null || true; done |
    sed -n 's|.* \(/[^ ]*\) (0x.*|\1|p' | sort -u | while read -r library; do echo "$library"; realpath "$library"; done)
printf '%s\n' $files $libraries "$@" | sed 's|^/||' | sort -u | copy
printf '%s\n' etc/passwd etc/group etc/nsswitch.conf etc/protocols etc/services | copy
cp -a /etc/alternatives /etc/ld.so.c* "$root/etc/"
ldconfig -r "$root"
echo '127.0.0.1 localhost' >"$root/etc/hosts"
echo 'nameserver 127.0.0.1' >"$root/etc/resolv.conf"
mkdir -p "$root/usr/lib/modules"
cp -a "$kernel/lib/modules/$version" "$root/usr/lib/modules/"
depmod -b "$root" -F "$kernel/boot/System.map-$version" "$version"
printf '%s\n' "$command" >"$root/command"

cat >"$root/init" <<'END'
#!/bin/bash
export PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin HOME=/root
mount -t proc proc /proc && mount -t sysfs sysfs /sys && mount -t cgroup2 cgroup2 /sys/fs/cgroup && mount -t tmpfs tmpfs /run
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts -o ptmxmode=0666 && mount -t tmpfs shm /dev/shm
for number in 0 1 2; do ln -sf /proc/self/fd/$number /dev/$(echo stdin stdout stderr | cut -d' ' -f$((number + 1))); done
ln -sf /proc/self/fd /dev/fd
ip link set lo up
modprobe -a loop overlay veth bridge nf_tables
echo "guest: $(uname -r), control groups: $(cat /sys/fs/cgroup/cgroup.controllers)"
bash /command
echo "guest: ended with $?"
echo o >/proc/sysrq-trigger
sleep 10
END
cat >"$initrd/init" <<END
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
for module in $MODULES; do /bin/busybox insmod /modules/\$module.ko; done
until [ -e /dev/vda ]; do /bin/busybox sleep 0.1; done
/bin/busybox mount -t ext4 /dev/vda /new
/bin/busybox mount --move /dev /new/dev
exec /bin/busybox switch_root /new /init
END
chmod +x "$root/init" "$initrd/init"
cp "$(command -v busybox)" "$initrd/bin/busybox"
for module in $MODULES; do find "$root/usr/lib/modules" -name "$module.ko" -exec cp {} "$initrd/modules/" \;; done
(cd "$initrd" && find . | cpio --quiet -o -H newc) >"$work/initrd.cpio"
rm -f "$work/disk"
mkfs.ext4 -q -O ^has_journal -d "$root" "$work/disk" 1500M

exec timeout $LIMIT qemu-system-x86_64 -M pc -accel tcg,thread=multi -cpu max -smp 2 -m 3072 -nic none -nographic -no-reboot \
    -kernel "$kernel/boot/vmlinuz-$version" -initrd "$work/initrd.cpio" -append "console=ttyS0 quiet panic=1" \
    -drive "id=disk,file=$work/disk,format=raw,if=none" -device virtio-blk-pci,drive=disk </dev/null
