// imapflow: what a webmail does. Run by imap.sh.
const { ImapFlow } = require("imapflow");
const assert = require("assert");
const fs = require("fs");

const e = process.env, implicit = process.argv[2] === "implicit", box = "flow-" + process.argv[2];
const client = new ImapFlow({
    host: e.host, port: +(implicit ? e.ports : e.port), secure: implicit, doSTARTTLS: implicit ? undefined : true,
    auth: { user: e.user, pass: e.pass }, tls: { ca: fs.readFileSync(e.dir + "/pem") }, logger: false,
});

async function main() {
    await client.connect();
    await client.mailboxCreate(box);
    const message = "Subject: flow\r\nContent-Type: text/plain\r\n\r\ntext\r\n";
    const { uid } = await client.append(box, message, ["\\Seen"]);
    const lock = await client.getMailboxLock(box);
    try {
        assert.equal(client.mailbox.exists, 1);
        const one = await client.fetchOne("*", { source: true, envelope: true, flags: true, bodyStructure: true });
        assert.equal(one.source.toString(), message);
        assert.equal(one.envelope.subject, "flow");
        assert.ok(one.flags.has("\\Seen") && one.bodyStructure.type === "text/plain");
        assert.deepEqual(await client.search({ subject: "flow" }, { uid: true }), [uid]);
        await client.messageFlagsAdd("1", ["$Work"]);
        const { content } = await client.download("1", "TEXT");
        let text = "";
        for await (const piece of content) text += piece;
        assert.equal(text.trim(), "text");
        await client.messageMove("1", "INBOX");
        assert.equal((await client.status(box, { messages: true })).messages, 0);
    } finally {
        lock.release();
    }
    assert.ok((await client.list()).some((m) => m.specialUse === "\\Sent"));
    await client.mailboxDelete(box);
    await client.logout();
}

main().then(() => process.exit(0), (error) => { console.error(error); process.exit(1); });
