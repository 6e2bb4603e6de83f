#!/bin/sh
# Makes the Debian packages of a program that is built already: ringpost, the server; ringpost-mta, which makes it the
# mail system of the host (sendmail, mailq, newaliases). The first can be installed beside Postfix, the second cannot.
#
#     cargo build --profile dist
#     deploy/debian/build.sh target/dist/ringpost [folder for the packages]
#
# Needs dpkg-deb and fakeroot's work done by dpkg-deb itself (--root-owner-group). Prints their paths.
set -eu
here=$(cd "$(dirname "$0")/../.." && pwd)
program=${1:?the program: target/dist/ringpost}
out=${2:-.}
version=$("$program" --version | cut -d' ' -f2)
architecture=$(dpkg --print-architecture)
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"

put() { install -D -m "$1" "$here/$2" "$root/$3"; }

install -D -m 755 "$program" "$root/usr/bin/ringpost"
if command -v strip >/dev/null; then strip "$root/usr/bin/ringpost"; fi
install -d -m 755 "$root/usr/share/man/man1" "$root/usr/share/bash-completion/completions"
"$program" man "$root/usr/share/man/man1" >/dev/null
find "$root/usr/share/man" -type f -exec chmod 644 {} + -exec gzip -9n {} +
"$program" completions bash >"$root/usr/share/bash-completion/completions/ringpost"
chmod 644 "$root/usr/share/bash-completion/completions/ringpost"
put 644 deploy/ringpost.service usr/lib/systemd/system/ringpost.service
put 644 tuning/sysctl.d/50-ringpost.conf usr/lib/sysctl.d/50-ringpost.conf
put 640 examples/ringpost.toml etc/ringpost/ringpost.toml
put 644 deploy/logrotate.conf etc/logrotate.d/ringpost
put 644 deploy/fail2ban/filter.d/ringpost.conf etc/fail2ban/filter.d/ringpost.conf
for file in docs/*.md docs/openapi.json README.md CHANGELOG.md; do
    put 644 "$file" "usr/share/doc/ringpost/$(basename "$file")"
done
put 644 tuning/README.md usr/share/doc/ringpost/tuning.md
put 644 deploy/README.md usr/share/doc/ringpost/deploy.md
(cd "$here/deploy" && find prometheus grafana fail2ban/jail.d proxies two-relays -type f) | while read -r file; do
    put 644 "deploy/$file" "usr/share/ringpost/$file"
done
{
    echo "ringpost may be used under the MIT licence or the Apache licence 2.0, as you choose."
    echo
    cat "$here/LICENSE-MIT"
    echo
    echo "The Apache licence 2.0 is in /usr/share/common-licenses/Apache-2.0."
} >"$root/usr/share/doc/ringpost/copyright"
chmod 644 "$root/usr/share/doc/ringpost/copyright"

install -d -m 755 "$root/DEBIAN"
for script in postinst prerm postrm; do install -m 755 "$here/deploy/debian/$script" "$root/DEBIAN/$script"; done
# Changed by whoever runs the server: kept when the package is updated.
(cd "$root" && find etc -type f | sort | sed 's#^#/#') >"$root/DEBIAN/conffiles"
# The C library that the program was linked with, or a later one.
libc=$(grep -aoE 'GLIBC_2\.[0-9]+' "$root/usr/bin/ringpost" | sort -u -t. -k2,2n | tail -1 | cut -d_ -f2)
# ca-certificates: without any authority nothing can be verified, and the server does not start. procps: kill(1), for
# the unit's reload.
cat >"$root/DEBIAN/control" <<END
Package: ringpost
Version: $version
Architecture: $architecture
Maintainer: ringpost <postmaster@localhost>
Section: mail
Priority: optional
Depends: adduser, ca-certificates, libc6 (>= ${libc:-2.36}), libgcc-s1, procps
Recommends: logrotate
Suggests: ringpost-mta, prometheus, fail2ban, haproxy
Installed-Size: $(du -sk "$root" | cut -f1)
Description: mail server for Internet providers
 Takes mail over SMTP and LMTP, answers only when a message is on stable storage, and passes it on by routes,
 through a smarthost or to mail exchangers, or delivers it into mailboxes that are read over POP3 and IMAP.
 One thread per core on io_uring; needs Linux 6.1 or later.
END
mkdir -p "$out"
package="$out/ringpost_${version}_${architecture}.deb"
dpkg-deb --root-owner-group -Zxz --build "$root" "$package" >/dev/null
echo "$package"

# The names of sendmail. As every other mail system does it: one of them at a time.
links=$root/links
install -d -m 755 "$links/DEBIAN" "$links/usr/sbin" "$links/usr/bin" "$links/usr/lib" "$links/usr/share/doc" \
    "$links/usr/share/man/man1" "$links/usr/share/man/man8"
ln -s ../bin/ringpost "$links/usr/sbin/sendmail"
ln -s ../sbin/sendmail "$links/usr/lib/sendmail"
ln -s ringpost "$links/usr/bin/mailq"
ln -s ringpost "$links/usr/bin/newaliases"
ln -s ringpost "$links/usr/share/doc/ringpost-mta"
ln -s ../man1/ringpost-sendmail.1.gz "$links/usr/share/man/man8/sendmail.8.gz"
for name in mailq newaliases; do
    ln -s "ringpost-$name.1.gz" "$links/usr/share/man/man1/$name.1.gz"
done
cat >"$links/DEBIAN/control" <<END
Package: ringpost-mta
Version: $version
Architecture: all
Maintainer: ringpost <postmaster@localhost>
Section: mail
Priority: optional
Depends: ringpost (= $version)
Provides: mail-transport-agent
Conflicts: mail-transport-agent
Replaces: mail-transport-agent
Description: ringpost as the mail system of a host
 The names sendmail, mailq and newaliases, so that programs of this host send their mail through ringpost.
 Not for a server that takes mail from a Postfix of the same host over LMTP: that one has these names.
END
package="$out/ringpost-mta_${version}_all.deb"
dpkg-deb --root-owner-group -Zxz --build "$links" "$package" >/dev/null
echo "$package"
