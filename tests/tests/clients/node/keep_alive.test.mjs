// Kept connections: a client that reuses them around the announced time gets every answer.

import assert from 'node:assert/strict';
import http from 'node:http';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { Daemon } from './daemon.mjs';

const PAIRS = 100;
/** How far the pauses go before and after the announced time. */
const AROUND_MS = 20;

/** Sends pairs of requests, the second one so long after the first; returns how they ended. */
async function pairs(daemon, agent, pauseMs) {
  const outcome = { answered: 0, reused: 0, errors: [] };
  const pair = async (at) => {
    const gap = pauseMs(at);
    const first = await daemon.request('/v1/version', { agent });
    assert.equal(first.status, 200);
    await sleep(gap);
    try {
      const second = await daemon.request('/v1/version', { agent });
      outcome.answered += second.status === 200 ? 1 : 0;
      outcome.reused += second.reused ? 1 : 0;
    } catch (error) {
      outcome.errors.push(`${gap} ms: ${error.code ?? error.message}`);
    }
  };
  await Promise.all(Array.from({ length: PAIRS }, (_, at) => pair(at)));
  console.log(`answered ${outcome.answered}, on the same connection ${outcome.reused}`);
  return outcome;
}

for (const seconds of [1, 2]) {
  test(`pauses around the announced ${seconds} s`, async (t) => {
    const daemon = await Daemon.start(t, '--keep-alive', `${seconds}s`);
    const { headers } = await daemon.request('/v1/version');
    assert.equal(headers['keep-alive'], `timeout=${seconds}`);
    const around = (at) => seconds * 1000 - AROUND_MS + (2 * AROUND_MS * at) / PAIRS;

    await t.test('by a client that reads it', async () => {
      const agent = new http.Agent({ keepAlive: true, maxSockets: Infinity });
      const { answered, errors } = await pairs(daemon, agent, around);
      agent.destroy();
      assert.deepEqual([answered, errors], [PAIRS, []]);
    });

    await t.test('by a client that keeps connections as long as it can', async () => {
      // The daemon keeps a connection longer than it says, so that each pair is on one.
      const agent = new http.Agent({ keepAlive: true, maxSockets: Infinity, timeout: 60_000 });
      agent.keepSocketAlive = (socket) => {
        socket.setKeepAlive(true);
        socket.unref();
        return true;
      };
      const { answered, reused, errors } = await pairs(daemon, agent, around);
      agent.destroy();
      assert.deepEqual([answered, reused, errors], [PAIRS, PAIRS, []]);
    });
  });
}

test('pauses between two requests of one kept connection are not long', async (t) => {
  const daemon = await Daemon.start(t);
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
  for (let at = 0; at < 200; at += 1) {
    const { status, reused } = await daemon.request('/v1/version', { agent });
    assert.deepEqual([status, reused], [200, at > 0]);
  }
  agent.destroy();
});
