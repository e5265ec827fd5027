#!/bin/bash
# Compiles the two native modules of the Node.js images: the runtime client's (rapid-client.node)
# and Hearth's (reseed.node). Run inside a tree of the images' own release, so that they fit the
# images' C library whatever the host has; /build holds what npm's packages brought, unpacked
# under their names, and gets the results.
set -euo pipefail
cd /build
export LC_ALL=C SOURCE_DATE_EPOCH=0
# The packages' scripts, which would choose between alternatives, were not run.
ln --symbolic --force bash /bin/sh
ln --symbolic --force mawk /usr/bin/awk
export AUTOMAKE=automake-1.16 ACLOCAL=aclocal-1.16

client=aws-lambda-ric
# shellcheck source=/dev/null
source $client/deps/versions
tar --extract --gzip --no-same-owner --file "$client/deps/curl-$CURL_VERSION.tar.gz"
tar --extract --gzip --no-same-owner --file "$client/deps/aws-lambda-cpp-$AWS_LAMBDA_CPP_RELEASE.tar.gz"

# As small as the client's own recipe makes it: HTTP over TCP, and nothing that the module would
# have to load at each start of a function.
(
  cd "curl-curl-$CURL_VERSION"
  autoreconf --force --install
  ./configure --quiet --prefix=/build/artefacts --disable-shared --enable-static --with-pic \
    --disable-alt-svc --disable-ares --disable-cookies --disable-crypto-auth --disable-dateparse \
    --disable-dict --disable-dnsshuffle --disable-doh --disable-file --disable-ftp \
    --disable-get-easy-options --disable-gopher --disable-hsts --disable-http-auth --disable-imap \
    --disable-ipv6 --disable-ldap --disable-ldaps --disable-libcurl-option --disable-manual \
    --disable-mime --disable-mqtt --disable-netrc --disable-ntlm-wb --disable-pop3 \
    --disable-progress-meter --disable-proxy --disable-pthreads --disable-rtsp --disable-smtp \
    --disable-socketpair --disable-sspi --disable-telnet --disable-tftp \
    --disable-threaded-resolver --disable-unix-sockets --disable-verbose \
    --disable-versioned-symbols --without-brotli --without-ca-bundle --without-gssapi \
    --without-libidn2 --without-libpsl --without-librtmp --without-libssh2 --without-nghttp2 \
    --without-nghttp3 --without-ngtcp2 --without-ssl --without-zlib --without-zstd
  make --silent --jobs="$(nproc)" --directory=lib install
  make --silent --directory=include install
)

library=aws-lambda-cpp-$AWS_LAMBDA_CPP_RELEASE
sed 's/@PROJECT_VERSION_[A-Z]*@/0/; s/@PROJECT_VERSION@/'"$AWS_LAMBDA_CPP_RELEASE"'/' \
  "$library/src/version.cpp.in" >version.cpp
for source in "$library"/src/{logging,runtime,backward}.cpp version.cpp; do
  g++ -std=c++11 -O2 -fPIC -fno-exceptions -fno-rtti -fvisibility=hidden \
    -fvisibility-inlines-hidden -DAWS_LAMBDA_LOG=0 -I"$library/include" -I"$library/src" \
    -Iartefacts/include -c "$source"
done
g++ -std=c++17 -O2 -fPIC -shared -fvisibility=hidden -DBUILDING_NODE_EXTENSION \
  -DNODE_GYP_MODULE_NAME=rapid_client -Inode/include/node -Inode-addon-api \
  -I"$library/include" -Iartefacts/include $client/src/rapid-client.cc ./*.o artefacts/lib/libcurl.a \
  -Wl,--gc-sections -s -o rapid-client.node
gcc -O2 -fPIC -shared -fvisibility=hidden -Wall -Wextra -Werror -Inode/include/node reseed.c \
  -s -o reseed.node
