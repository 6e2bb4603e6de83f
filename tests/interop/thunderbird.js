// What thunderbird.py has Thunderbird do. It runs inside the program, with all its rights: the text goes there whole
// with each call, as the body of a function with the arguments [name of an action, its arguments].
// Folders are named by the key of their server in the profile and the names on the way to them, "A/B"; INBOX is INBOX.
const { MailServices } = ChromeUtils.importESModule("resource:///modules/MailServices.sys.mjs");
const { setTimeout } = ChromeUtils.importESModule("resource://gre/modules/Timer.sys.mjs");
const { FileUtils } = ChromeUtils.importESModule("resource://gre/modules/FileUtils.sys.mjs");

const MINUTE = 60000;

/** Waits until `test` gives something true, and gives that. */
async function until(what, test) {
    for (const end = Date.now() + MINUTE; Date.now() < end; ) {
        const found = test();
        if (found) return found;
        await new Promise((resolve) => setTimeout(resolve, 50));
    }
    throw new Error(`waited in vain for ${what}`);
}

const NO_END = "waited in vain for the end";

/** `promise`, but not longer than `limit`. */
function bounded(promise, limit) {
    return Promise.race([promise, new Promise((_, reject) => setTimeout(() => reject(new Error(NO_END)), limit))]);
}

/** What `start` does with a listener for URLs, to its end. */
function url(start, limit = MINUTE / 2) {
    return bounded(new Promise((resolve, reject) => start({
        OnStartRunningUrl() {},
        OnStopRunningUrl(_, status) {
            if (Components.isSuccessCode(status)) resolve();
            else reject(new Error(`ended with 0x${status.toString(16)}`));
        },
        QueryInterface: ChromeUtils.generateQI(["nsIUrlListener"]),
    })), limit);
}

/** What `start` does with a listener for copies, to its end. */
function copying(start) {
    return bounded(new Promise((resolve, reject) => start({
        onStartCopy() {},
        onProgress() {},
        setMessageKey() {},
        getMessageId() { return null; },
        onStopCopy(status) {
            if (Components.isSuccessCode(status)) resolve();
            else reject(new Error(`ended with 0x${status.toString(16)}`));
        },
        QueryInterface: ChromeUtils.generateQI(["nsIMsgCopyServiceListener"]),
    })), MINUTE / 2);
}

const server = (key) => MailServices.accounts.getIncomingServer(key);

function all(key) {
    const { rootFolder } = server(key);
    return rootFolder.descendants.filter((f) => !(f.flags & Ci.nsMsgFolderFlags.Virtual));
}

function name(f) {
    if (f.getFlag(Ci.nsMsgFolderFlags.Inbox)) return "INBOX";
    return f.parent.isServer ? f.name : `${name(f.parent)}/${f.name}`;
}

const find = (key, wanted) => all(key).find((f) => name(f) === wanted);

function folder(key, wanted) {
    const found = find(key, wanted);
    if (!found) throw new Error(`no folder ${wanted} among ${all(key).map(name)}`);
    return found;
}

function message(key, wanted, subject) {
    const found = [...folder(key, wanted).messages].find((m) => m.mime2DecodedSubject === subject);
    if (!found) throw new Error(`no message ${subject} in ${wanted}`);
    return found;
}

/** Asks the server for what is new. While Thunderbird does so of itself it forgets who else has asked. */
async function update(f) {
    if (f.server.type !== "imap") {
        await url((listener) => f.server.getNewMessages(f, null, listener));
        return;
    }
    f.QueryInterface(Ci.nsIMsgImapMailFolder);
    for (let attempt = 1; ; attempt++) {
        try {
            await url((listener) => f.updateFolderWithListener(null, listener), 5000);
            return;
        } catch (error) {
            if (error.message !== NO_END || attempt === 6) throw error;
        }
    }
}

/** The octets of a message as Thunderbird has or gets them, in base64. */
function octets(m) {
    const uri = m.folder.getUriForMsg(m);
    const parts = [];
    return new Promise((resolve, reject) => MailServices.messageServiceFromURI(uri).streamMessage(uri, {
        onStartRequest() {},
        onDataAvailable(_, stream, offset, count) {
            const input = Cc["@mozilla.org/binaryinputstream;1"].createInstance(Ci.nsIBinaryInputStream);
            input.setInputStream(stream);
            parts.push(input.readBytes(count));
        },
        onStopRequest(_, status) {
            if (Components.isSuccessCode(status)) resolve(btoa(parts.join("")));
            else reject(new Error(`ended with 0x${status.toString(16)}`));
        },
        QueryInterface: ChromeUtils.generateQI(["nsIStreamListener"]),
    }, null, null, false, ""));
}

/** Name and octets (base64) of each attachment, saved as from the window of the message. */
async function attachments(m) {
    const { MsgHdrToMimeMessage } = ChromeUtils.importESModule("resource:///modules/gloda/MimeMessage.sys.mjs");
    const { NetUtil } = ChromeUtils.importESModule("resource://gre/modules/NetUtil.sys.mjs");
    const mime = await new Promise((resolve) => MsgHdrToMimeMessage(m, null, (_, parsed) => resolve(parsed), true));
    const saved = [];
    for (const part of mime.allUserAttachments) {
        const bytes = await new Promise((resolve, reject) => NetUtil.asyncFetch(
            { uri: Services.io.newURI(part.url), loadUsingSystemPrincipal: true },
            (stream, status) => {
                if (!Components.isSuccessCode(status)) reject(new Error(`ended with 0x${status.toString(16)}`));
                else resolve(NetUtil.readInputStreamToString(stream, stream.available()));
            }));
        saved.push([part.name, btoa(bytes)]);
    }
    return saved;
}

/** Sends a message, or saves it as a draft, as the account of server `key`. */
async function compose(key, how, { to, subject, body, file, replaces }) {
    const fields = Cc["@mozilla.org/messengercompose/composefields;1"].createInstance(Ci.nsIMsgCompFields);
    const account = MailServices.accounts.findAccountForServer(server(key));
    const identity = account.defaultIdentity;
    Object.assign(fields, { from: identity.fullAddress, to, subject, body, forcePlainText: true });
    if (replaces) fields.draftId = replaces;
    if (file) {
        const part = Cc["@mozilla.org/messengercompose/attachment;1"].createInstance(Ci.nsIMsgAttachment);
        part.url = Services.io.newFileURI(new FileUtils.File(file)).spec;
        part.name = PathUtils.filename(file);
        fields.addAttachment(part);
    }
    const params = Cc["@mozilla.org/messengercompose/composeparams;1"].createInstance(Ci.nsIMsgComposeParams);
    Object.assign(params, { type: Ci.nsIMsgCompType.New, format: Ci.nsIMsgCompFormat.PlainText, identity });
    params.composeFields = fields;
    const message = Cc["@mozilla.org/messengercompose/compose;1"].createInstance(Ci.nsIMsgCompose);
    message.initialize(params);
    const progress = Cc["@mozilla.org/messenger/progress;1"].createInstance(Ci.nsIMsgProgress);
    const done = new Promise((resolve) => progress.registerListener({
        onStateChange(_, request, flags) { if (flags & Ci.nsIWebProgressListener.STATE_STOP) resolve(); },
        onProgressChange() {},
        onLocationChange() {},
        onStatusChange() {},
        onSecurityChange() {},
        onContentBlockingEvent() {},
        QueryInterface: ChromeUtils.generateQI(["nsIWebProgressListener", "nsISupportsWeakReference"]),
    }));
    await message.sendMsg(Ci.nsIMsgCompDeliverMode[how], identity, account.key, progress);
    await done;
}

/** Keys of the messages that the server finds. */
function search(f, attribute, words) {
    const session = Cc["@mozilla.org/messenger/searchSession;1"].createInstance(Ci.nsIMsgSearchSession);
    session.addScopeTerm(Ci.nsMsgSearchScope.onlineMail, f);
    const term = session.createTerm();
    const { value } = term;
    term.attrib = value.attrib = Ci.nsMsgSearchAttrib[attribute];
    term.op = Ci.nsMsgSearchOp.Contains;
    value.str = words;
    term.value = value;
    session.appendTerm(term);
    const subjects = [];
    return new Promise((resolve, reject) => {
        session.registerListener({
            onNewSearch() {},
            onSearchHit(m) { subjects.push(m.mime2DecodedSubject); },
            onSearchDone(status) {
                if (Components.isSuccessCode(status)) resolve(subjects.sort());
                else reject(new Error(`ended with 0x${status.toString(16)}`));
            },
            QueryInterface: ChromeUtils.generateQI(["nsIMsgSearchNotify"]),
        }, Ci.nsIMsgSearchSession.allNotifications);
        session.search(null);
    });
}

const actions = {
    /** What the profile cannot hold: the authority of the server's certificate, and the passwords. */
    async prepare(authority, logins) {
        Cc["@mozilla.org/security/x509certdb;1"].getService(Ci.nsIX509CertDB).addCertFromBase64(authority, "C,,");
        for (const [scheme, user, password] of logins) {
            const login = Cc["@mozilla.org/login-manager/loginInfo;1"].createInstance(Ci.nsILoginInfo);
            login.init(`${scheme}://localhost`, null, `${scheme}://localhost`, user, password, "", "");
            await Services.logins.addLoginAsync(login);
        }
        return Services.appinfo.version;
    },

    /** Asks the server for its folders, as opening the account does. */
    async expand(key, wanted) {
        server(key).performExpand(null);
        await until(`folder ${wanted}`, () => find(key, wanted));
    },
    names: (key) => all(key).map(name),
    /** The names of the folders with a special use. */
    special(key) {
        const flags = { sent: "SentMail", drafts: "Drafts", trash: "Trash", archive: "Archive", junk: "Junk" };
        return Object.fromEntries(Object.entries(flags).map(([use, flag]) =>
            [use, all(key).filter((f) => f.getFlag(Ci.nsMsgFolderFlags[flag])).map(name)]));
    },

    update: (key, wanted) => update(folder(key, wanted)),
    list(key, wanted) {
        return [...folder(key, wanted).messages].map((m) => ({
            uid: m.messageKey, subject: m.mime2DecodedSubject, author: m.mime2DecodedAuthor, size: m.messageSize,
            date: m.dateInSeconds, id: m.messageId, read: m.isRead, flagged: m.isFlagged,
            answered: !!(m.flags & Ci.nsMsgMessageFlags.Replied), keywords: m.getStringProperty("keywords"),
            offline: !!(m.flags & Ci.nsMsgMessageFlags.Offline),
        }));
    },
    octets: (key, wanted, subject) => octets(message(key, wanted, subject)),
    attachments: (key, wanted, subject) => attachments(message(key, wanted, subject)),
    /** Nothing is asked for: the server tells it. */
    async told(key, wanted, subject, flag, value) {
        const f = folder(key, wanted);
        await until(`${subject} in ${wanted}`, () =>
            [...f.messages].some((m) => m.mime2DecodedSubject === subject && (!flag || m[flag] === value)));
    },
    async gone(key, wanted, subject) {
        const f = folder(key, wanted);
        await until(`the end of ${subject}`, () => ![...f.messages].some((m) => m.mime2DecodedSubject === subject));
    },

    read: (key, wanted, subject, value) =>
        folder(key, wanted).markMessagesRead([message(key, wanted, subject)], value),
    flag: (key, wanted, subject, value) =>
        folder(key, wanted).markMessagesFlagged([message(key, wanted, subject)], value),
    tag: (key, wanted, subject, keyword) =>
        folder(key, wanted).addKeywordsToMessages([message(key, wanted, subject)], keyword),
    copy: (key, wanted, subject, target, move, to = key) => copying((listener) => MailServices.copy.copyMessages(
        folder(key, wanted), [message(key, wanted, subject)], folder(to, target), move, listener, null, false)),
    /** Into the trash. */
    remove: (key, wanted, subject) => copying((listener) => folder(key, wanted).deleteMessages(
        [message(key, wanted, subject)], null, false, false, listener, false)),
    emptyTrash: (key) => url((listener) => server(key).rootFolder.getFolderWithFlags(Ci.nsMsgFolderFlags.Trash)
        .emptyTrash(listener)),
    answered: (key, wanted, subject) => folder(key, wanted).addMessageDispositionState(
        message(key, wanted, subject), Ci.nsIMsgFolder.nsMsgDispositionState_Replied),

    async create(key, parent, leaf, whole) {
        (parent ? folder(key, parent) : server(key).rootFolder).createSubfolder(leaf, null);
        await until(`folder ${whole}`, () => find(key, whole));
    },
    async rename(key, wanted, leaf, whole) {
        folder(key, wanted).rename(leaf, null);
        await until(`folder ${whole}`, () => find(key, whole) && !find(key, wanted));
    },
    moveFolder: (key, wanted, target) => url((listener) =>
        MailServices.imap.moveFolder(folder(key, wanted), folder(key, target), listener, null)),
    deleteFolder: (key, wanted) => url((listener) =>
        MailServices.imap.deleteFolder(folder(key, wanted), listener, null)),

    compose,
    draft: (key, wanted, subject) => {
        const m = message(key, wanted, subject);
        return m.folder.getUriForMsg(m);
    },
    search: (key, wanted, attribute, words) => search(folder(key, wanted), attribute, words),
    download: (key, wanted) => {
        const f = folder(key, wanted);
        f.setFlag(Ci.nsMsgFolderFlags.Offline);
        return url((listener) => f.downloadAllForOffline(listener, null));
    },
    /** Sessions end; the next thing asked for begins new ones. */
    disconnect: (key) => server(key).closeCachedConnections(),
    offline() { Services.io.offline = true; },
    online() {
        Cc["@mozilla.org/messenger/offline-manager;1"].getService(Ci.nsIMsgOfflineManager)
            .goOnline(false, true, Services.wm.getMostRecentWindow("mail:3pane").msgWindow);
    },

    leave(key, value) { server(key).QueryInterface(Ci.nsIPop3IncomingServer).leaveMessagesOnServer = value; },
};

const [action, given] = arguments;
return (async () => {
    const result = await actions[action](...given);
    return result === undefined ? null : result;
})();
