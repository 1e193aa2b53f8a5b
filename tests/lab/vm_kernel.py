# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Debian's own kernel on a root file system, and the small file system (initrd) that finds the disk and the network.

The packages are unpacked and not installed: their scripts would need a boot loader.
"""

from __future__ import annotations

#: The kernel for virtual machines, and a shell that needs no libraries.
PACKAGES = ("linux-image-cloud-amd64", "busybox-static")

#: What the initrd does: the modules in their order, the network out of the kernel's command line, the disk.
INIT = r"""#!/bin/sh
for module in /modules/*; do insmod "$module"; done
mount -t devtmpfs dev /dev
ip link set lo up
ip link set eth0 up
ip address add "$ADDRESS" dev eth0
ip address add "$ADDRESS6" dev eth0
ip route add default via "$GATEWAY"
mount -t ext4 /dev/vda /root
mount -o move /dev /root/dev
exec env -i switch_root /root /sbin/init
"""

#: Unpacks "$@" into the file system "$root", as /boot/vmlinuz, /boot/initrd.img and /lib/modules; a part of image.py's.
UNPACK = (
    r"""
# The preferences keep kernels away.
chroot "$root" apt-get install -y -q --no-install-recommends --download-only \
    -o Dir::Etc::preferencesparts=/dev/null "$@"
unpack() { dpkg-deb --fsys-tarfile "$1" | tar -x --keep-directory-symlink --exclude ./usr/share -C "$2"; }
for deb in "$root"/var/cache/apt/archives/linux-*.deb; do unpack "$deb" "$root"; done
version=$(ls "$root/usr/lib/modules")
for image in "$root/boot/vmlinuz-$version" "$root/usr/lib/modules/$version/vmlinuz"; do
    [ ! -e "$image" ] || mv "$image" "$root/boot/vmlinuz"
done
chroot "$root" depmod "$version"
# Without udev its terminal would be waited for, for 90 s.
ln -s /dev/null "$root/etc/systemd/system/serial-getty@ttyS0.service"

initrd=$root/tmp/initrd
mkdir -p "$initrd/modules" "$initrd/dev" "$initrd/root"
unpack "$root"/var/cache/apt/archives/busybox-static_*.deb "$initrd"
busybox=$initrd/usr/bin/busybox
chroot "$initrd" /usr/bin/busybox --install -s /usr/bin
ln -s usr/bin "$initrd/bin"
cat > "$initrd/init" <<'INIT'
"""
    + INIT
    + r"""INIT
chmod 755 "$initrd/init"
number=10
for name in virtio_pci virtio_blk virtio_net ext4; do
    chroot "$root" modprobe --set-version "$version" --show-depends "$name"
done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r module; do
    number=$((number + 1))
    case $module in
        *.xz) "$busybox" unxz -c "$root$module" ;;
        *) cat "$root$module" ;;
    esac > "$initrd/modules/$number-$(basename "$module" .xz)"
done
(cd "$initrd" && find . | "$busybox" cpio -o -H newc > "$root/boot/initrd.img")
"""
)
