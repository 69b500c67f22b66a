# A static binary, alone in an empty image.
FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
# Naming the target keeps the static flag away from build scripts and macros.
RUN target="$(rustc -vV | sed -n 's/^host: //p')" \
 && CARGO_PROFILE_RELEASE_STRIP=symbols RUSTFLAGS="-C target-feature=+crt-static" \
    cargo build --locked --release --bin turnserver --target "$target" \
 && cp "target/$target/release/turnserver" /turnserver

FROM scratch
COPY --from=build /turnserver /turnserver
# Credentials come from the environment; the relay range is small enough to publish.
COPY config/container.toml /etc/turnserver/stunner.toml
USER 65534:65534
EXPOSE 3478/udp 3478/tcp 8080/tcp 8080/udp 49152-49251/udp
# Asks a listener of the configuration, whichever is mounted there. SIGTERM, as `docker stop` sends
# it, drains; give it time with --stop-timeout.
HEALTHCHECK --interval=10s --timeout=5s CMD ["/turnserver", "ping", "--config", "/etc/turnserver/stunner.toml"]
ENTRYPOINT ["/turnserver"]
CMD ["--config", "/etc/turnserver/stunner.toml"]
