// The official JavaScript SDK's client, told by the command line: node drive.mjs URL BINDING VERSION GATE
// Prints one JSON object: what it got, by the names of the operations. GATE is a path at which the agent waits.
import { AgentCard, ListTasksRequest, SendMessageRequest, TaskPushNotificationConfig, TaskState } from '@a2a-js/sdk';
import { ClientFactory, DefaultAgentCardResolver, JsonRpcTransportFactory, RestTransportFactory } from '@a2a-js/sdk/client';

const [url, binding, version, gate] = process.argv.slice(2);
const legacyCompat = { enabled: version === '0.3' };
const Transport = { JSONRPC: JsonRpcTransportFactory, 'HTTP+JSON': RestTransportFactory }[binding];

const card = await new DefaultAgentCardResolver().resolve(url);
card.supportedInterfaces = card.supportedInterfaces.filter(
  (each) => each.protocolBinding === binding && each.protocolVersion === version,
);
card.supportedInterfaces.forEach((each) => (each.url = url)); // the card has the public address
const client = await new ClientFactory({ transports: [new Transport({ legacyCompat })] }).createFromAgentCard(card);

function request(text, { wait = true, ...members } = {}) {
  const message = { messageId: crypto.randomUUID(), role: 'ROLE_USER', parts: [{ text }], ...members };
  return SendMessageRequest.fromJSON({ message, configuration: { returnImmediately: !wait } });
}

const textOf = (parts) => parts.map((part) => part.content.value).join('');
const answerOf = (task) => task.artifacts.map((artifact) => textOf(artifact.parts)).join('');
const stateOf = (status) => TaskState[status.state];
const failure = (promise) => promise.then(() => '', (error) => error.name + ': ' + error.message);

/** An event of a stream in short: a state, or a piece of the answer. */
function told({ payload: { $case, value } }) {
  return $case === 'artifactUpdate' ? textOf(value.artifact.parts) : stateOf(value.status);
}

const got = {};

const sent = await client.sendMessage(request('hello'));
const found = await client.getTask({ id: sent.id, tenant: '', historyLength: 0 });
got.send = [stateOf(sent.status), answerOf(sent)];
got.get = [found.id === sent.id, answerOf(found), found.history.length];

got.stream = [];
for await (const event of client.sendMessageStream(request('one two'))) got.stream.push(told(event));

const asked = await client.sendMessage(request('weather'));
const answered = await client.sendMessage(request('Lisbon', { taskId: asked.id, contextId: asked.contextId }));
got.question = [stateOf(asked.status), textOf(asked.status.message.parts), answered.id === asked.id, answerOf(answered)];

if (version === '1.0') { // no operation of the client in 0.3
  const page = await client.listTasks(ListTasksRequest.fromJSON({ pageSize: 2 }));
  got.list = [page.totalSize, page.tasks[0].id === asked.id];
}

const running = await client.sendMessage(request(gate, { wait: false }));
const named = { taskId: running.id, id: 'mine', tenant: '' };
await client.createTaskPushNotificationConfig(
  TaskPushNotificationConfig.fromJSON({ ...named, url: 'https://hook.test/a' }),
);
const config = await client.getTaskPushNotificationConfig(named);
const configs = await client.listTaskPushNotificationConfig({ taskId: running.id, tenant: '', pageSize: 0, pageToken: '' });
await client.deleteTaskPushNotificationConfig(named);
got.push = [config.id, config.url, configs.configs.length, await failure(client.getTaskPushNotificationConfig(named)) !== ''];

got.subscribe = [];
for await (const event of client.resubscribeTask({ id: running.id, tenant: '' })) {
  if (got.subscribe.push(told(event)) === 1) await client.cancelTask({ id: running.id, tenant: '' });
}
got.again = await failure(client.cancelTask({ id: running.id, tenant: '' }));
got.unknown = await failure(client.getTask({ id: crypto.randomUUID(), tenant: '' }));
got.card = [AgentCard.toJSON(card).name, card.capabilities.streaming];
console.log(JSON.stringify(got));
