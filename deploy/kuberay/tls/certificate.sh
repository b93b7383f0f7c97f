#!/bin/sh
# Makes a certificate that an authority has signed, for a node that is both server and client.
#
#   certificate.sh AUTHORITY OUT NAME...
#
# AUTHORITY holds ca.crt and ca.key. OUT gets tls.crt, tls.key and ca.crt. Each NAME is one that the
# node is reached by, as DNS:redis or IP:10.0.0.1; localhost and 127.0.0.1 are added.
set -eu
umask 077
authority=$1 out=$2
shift 2
names=DNS:localhost,IP:127.0.0.1
for name in "$@"; do
  names=$names,$name
done
cat >"$out/extensions" <<END
subjectAltName=$names
basicConstraints=critical,CA:FALSE
keyUsage=critical,digitalSignature
extendedKeyUsage=serverAuth,clientAuth
END
openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
  -subj /CN=causeway -keyout "$out/tls.key" -out "$out/request"
openssl x509 -req -in "$out/request" -days 825 -set_serial "0x$(openssl rand -hex 16)" \
  -CA "$authority/ca.crt" -CAkey "$authority/ca.key" -extfile "$out/extensions" -out "$out/tls.crt"
cp "$authority/ca.crt" "$out/ca.crt"
rm "$out/request" "$out/extensions"
