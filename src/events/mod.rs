//! L3: alarms and notices for operators (the mail log).
