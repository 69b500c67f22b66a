// One browser call over a TURN server: two RTCPeerConnections in one page of headless Chromium
// that may use relay candidates only. Reads one JSON object as its argument, prints one JSON
// object with what happened; judging it is left to the caller.
//
// Argument: { chromium, profile, iceServers, ignoreCertificateErrors, mode: "call" | "gather" }

import http from "node:http";
import { chromium } from "playwright-core";

const options = JSON.parse(process.argv[2]);
const deadline = setTimeout(() => fail("the browser run took more than 60 s"), 60_000);

function fail(message) {
  console.error(message);
  process.exit(1);
}

// getUserMedia exists on secure origins only; a page on loopback is one.
const page_server = http.createServer((_request, response) => {
  response.setHeader("content-type", "text/html");
  response.end("<!doctype html><title>call</title>");
});
await new Promise((done) => page_server.listen(0, "127.0.0.1", done));

const args = [
  "--no-sandbox",
  "--use-fake-device-for-media-stream",
  "--use-fake-ui-for-media-stream",
  "--disable-gpu",
  "--disable-dev-shm-usage",
  "--disable-background-networking",
  "--disable-sync",
  "--disable-component-update",
  "--no-first-run",
];
if (options.ignoreCertificateErrors) args.push("--ignore-certificate-errors");

const context = await chromium.launchPersistentContext(options.profile, {
  executablePath: options.chromium,
  headless: true,
  args,
});

try {
  const page = await context.newPage();
  page.on("console", (message) => console.error("page:", message.text()));
  await page.goto(`http://127.0.0.1:${page_server.address().port}/`);
  const result = await page.evaluate(options.mode === "gather" ? gather : call, options.iceServers);
  result.browser = context.browser()?.version() ?? "chromium";
  console.log(JSON.stringify(result));
} catch (error) {
  fail(String(error?.stack ?? error));
} finally {
  await context.close();
  page_server.close();
  clearTimeout(deadline);
}

// Runs in the page: gathers candidates of one connection and reports candidates and errors.
async function gather(iceServers) {
  const pc = new RTCPeerConnection({ iceServers, iceTransportPolicy: "relay" });
  const candidates = [];
  const errors = [];
  pc.onicecandidate = (event) => event.candidate?.candidate && candidates.push(event.candidate.candidate);
  pc.onicecandidateerror = (event) =>
    errors.push({ code: event.errorCode, text: event.errorText, url: event.url });
  pc.createDataChannel("probe");
  await pc.setLocalDescription(await pc.createOffer());
  const started = performance.now();
  while (pc.iceGatheringState !== "complete" && performance.now() - started < 20_000) {
    await new Promise((done) => setTimeout(done, 20));
  }
  pc.close();
  return { candidates, errors };
}

// Runs in the page: a call with video and a data channel in both directions.
async function call(iceServers) {
  const config = { iceServers, iceTransportPolicy: "relay" };
  const left = new RTCPeerConnection(config);
  const right = new RTCPeerConnection(config);
  const errors = [];
  for (const [from, to] of [[left, right], [right, left]]) {
    from.onicecandidate = (event) => event.candidate && to.addIceCandidate(event.candidate);
    from.onicecandidateerror = (event) =>
      errors.push({ code: event.errorCode, text: event.errorText, url: event.url });
    from.ontrack = (event) => {
      const video = document.createElement("video");
      video.muted = true;
      video.autoplay = true;
      video.srcObject = event.streams[0];
      document.body.append(video);
    };
  }

  const media = await navigator.mediaDevices.getUserMedia({ video: { width: 320, height: 240 } });
  for (const pc of [left, right]) pc.addTrack(media.getVideoTracks()[0], media);

  const received = { left: null, right: null };
  const channel = left.createDataChannel("data");
  channel.onopen = () => channel.send("from left");
  channel.onmessage = (event) => (received.left = event.data);
  right.ondatachannel = ({ channel }) => {
    channel.onmessage = (event) => {
      received.right = event.data;
      channel.send("from right");
    };
  };

  await left.setLocalDescription(await left.createOffer());
  await right.setRemoteDescription(left.localDescription);
  await right.setLocalDescription(await right.createAnswer());
  await left.setRemoteDescription(right.localDescription);

  async function report(pc) {
    const stats = [...(await pc.getStats()).values()];
    const byId = new Map(stats.map((stat) => [stat.id, stat]));
    const transport = stats.find((stat) => stat.type === "transport");
    const pair = byId.get(transport?.selectedCandidatePairId);
    const local = byId.get(pair?.localCandidateId);
    const remote = byId.get(pair?.remoteCandidateId);
    const video = stats.find((stat) => stat.type === "inbound-rtp" && stat.kind === "video");
    return {
      state: pc.connectionState,
      local: local?.candidateType ?? null,
      remote: remote?.candidateType ?? null,
      relayProtocol: local?.relayProtocol ?? null,
      url: local?.url ?? null,
      framesDecoded: video?.framesDecoded ?? 0,
    };
  }

  const started = performance.now();
  let sides;
  do {
    await new Promise((done) => setTimeout(done, 100));
    sides = { left: await report(left), right: await report(right) };
  } while (
    performance.now() - started < 30_000 &&
    !(sides.left.framesDecoded > 0 && sides.right.framesDecoded > 0 && received.left && received.right)
  );
  left.close();
  right.close();
  return { ...sides, received, errors, milliseconds: Math.round(performance.now() - started) };
}
