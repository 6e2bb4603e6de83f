// node-imap: callbacks, one connection, IDLE by itself. Run by imap.sh.
const Imap = require("imap");
const assert = require("assert");
const fs = require("fs");
const net = require("net");
const { promisify } = require("util");

const e = process.env, implicit = process.argv[2] === "implicit", box = "node-" + process.argv[2];
const client = new Imap({
    user: e.user, password: e.pass, host: e.host, port: +(implicit ? e.ports : e.port),
    tls: implicit, autotls: implicit ? "never" : "required",
    tlsOptions: { ca: fs.readFileSync(e.dir + "/pem"), servername: e.host },
});
const call = (name, ...args) => promisify(client[name].bind(client))(...args);

// Everything of the messages that a fetch tells: attributes and the bodies by their section.
function fetch(source, options) {
    return new Promise((resolve, reject) => {
        const got = [], query = client.fetch(source, options);
        query.on("message", (message) => {
            const one = { bodies: {} };
            got.push(one);
            message.on("body", (stream, info) => {
                one.bodies[info.which] = "";
                stream.on("data", (piece) => one.bodies[info.which] += piece.toString());
            });
            message.once("attributes", (attrs) => one.attrs = attrs);
        });
        query.once("error", reject);
        query.once("end", () => resolve(got));
    });
}

async function main() {
    await new Promise((resolve, reject) => client.once("ready", resolve).once("error", reject).connect());
    await call("addBox", box);
    const opened = await call("openBox", box, false);
    assert.equal(opened.messages.total, 0);
    const text = "Subject: node\r\nMessage-ID: <1@node>\r\nContent-Type: text/plain\r\n\r\ntext\r\n";
    await call("append", text, { mailbox: box, flags: ["Seen"], date: new Date() });
    await call("append", text.replace("<1@", "<2@").replace("\r\n\r\n", "\r\nReferences: <1@node>\r\n\r\n"), {});
    const uids = await call("search", [["SUBJECT", "node"], ["SINCE", new Date(Date.now() - 2 * 86400e3)]]);
    assert.equal(uids.length, 2);
    const [one] = await fetch(uids.slice(0, 1), { bodies: ["HEADER.FIELDS (SUBJECT)", "TEXT"], struct: true, envelope: true, size: true });
    assert.equal(one.bodies.TEXT, "text\r\n");
    assert.equal(one.bodies["HEADER.FIELDS (SUBJECT)"], "Subject: node\r\n\r\n");
    assert.equal(one.attrs.size, text.length);
    assert.equal(one.attrs.envelope.messageId, "<1@node>");
    assert.ok(one.attrs.flags.includes("\\Seen") && one.attrs.struct[0].subtype === "plain");
    await call("addFlags", uids, ["Flagged"]);
    await call("addKeywords", uids, ["Work"]);
    assert.equal((await call("search", [["KEYWORD", "Work"], "FLAGGED"])).length, 2);
    assert.deepEqual(await call("sort", ["-DATE"], ["ALL"]).then((found) => found.length), 2);
    assert.deepEqual(await client.serverSupports("THREAD=REFERENCES") && await call("thread", "references", ["ALL"]), [uids]);
    const copied = await call("copy", uids.slice(1), "INBOX");
    assert.ok(copied > 0, copied);
    await call("move", uids.slice(0, 1), "INBOX");
    await call("addFlags", uids.slice(1), "Deleted");
    await call("expunge");
    assert.deepEqual(await call("search", ["ALL"]), []);
    // It idles by itself and hears of new mail.
    await call("openBox", "INBOX", true);
    const heard = new Promise((resolve) => client.once("mail", resolve));
    const lines = ["HELO x", "MAIL FROM:<bob@far.example>", `RCPT TO:<${e.user}>`, "DATA", "Subject: told\r\n\r\nx\r\n.", "QUIT"];
    const smtp = net.connect(+e.smtp, "127.0.0.1");
    smtp.on("data", () => lines.length && smtp.write(lines.shift() + "\r\n"));
    assert.ok(await heard >= 1);
    await call("closeBox");
    assert.ok(Object.values(await call("getBoxes")).some((one) => one.special_use_attrib === "\\Sent"));
    await call("delBox", box);
    client.end();
}

const late = setTimeout(() => { console.error("it hangs"); process.exit(1); }, 50000);
main().then(() => { clearTimeout(late); client.once("close", () => process.exit(0)); },
    (error) => { console.error(error); process.exit(1); });
