# Builds a static binary and puts it, alone, into an empty image.
FROM rust:1.95-alpine AS build
RUN apk add --no-cache gcc musl-dev
WORKDIR /src
COPY . .
RUN cargo build --locked --release --bin turnserver

# The image's configuration: the commented default with a relay range small enough to publish.
FROM scratch
COPY --from=build /src/target/release/turnserver /usr/local/bin/turnserver
COPY config/container.toml /etc/turnserver/stunner.toml
USER 65534:65534
EXPOSE 3478/udp 3478/tcp 49152-49251/udp
HEALTHCHECK --interval=10s --timeout=3s CMD ["/usr/local/bin/turnserver", "ping"]
ENTRYPOINT ["/usr/local/bin/turnserver"]
CMD ["--config", "/etc/turnserver/stunner.toml"]
