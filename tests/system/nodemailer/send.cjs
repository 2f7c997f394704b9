// Sends with nodemailer what standard input says, and tells on standard output what came of each message.
//
// In: {"transport": options of createTransport, "messages": [options of sendMail]}, as JSON. A message whose "exact" is
// true is composed first and then sent as it is, so that its octets are known.
// Out: a list in the order of the messages: {"response", "accepted", "rejected"}, with "raw" (base64) where it was
// exact; or {"code", "responseCode", "command"} of the error.
'use strict';

const nodemailer = require('nodemailer');

async function composed(message) {
    const composer = nodemailer.createTransport({ streamTransport: true, buffer: true, newline: 'windows' });
    const { envelope, message: raw } = await composer.sendMail(message);
    return { envelope, raw };
}

async function sent(transport, { exact, ...message }) {
    try {
        const out = exact ? await composed(message) : message;
        const { response, accepted, rejected } = await transport.sendMail(out);
        const raw = exact ? { raw: out.raw.toString('base64') } : {};
        return { response, accepted, rejected, ...raw };
    } catch ({ code, responseCode, command }) {
        return { code, responseCode, command };
    }
}

async function main() {
    let job = '';
    for await (const piece of process.stdin) {
        job += piece;
    }
    const { transport: options, messages } = JSON.parse(job);
    const transport = nodemailer.createTransport(options);
    const results = await Promise.all(messages.map((message) => sent(transport, message)));
    transport.close();
    process.stdout.write(JSON.stringify(results));
}

main();
