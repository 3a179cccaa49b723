"""What meters send: each dialect turns a payload into readings, or says in a sentence why not."""
