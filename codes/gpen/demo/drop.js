// Runs once, with `element` (the component), `props` and `trigger` from Gradio. Uploads go to the server's memory, and
// the value of the component becomes the key of the upload, or a word for what went wrong.
const find = (selector) => element.querySelector(selector);
let current = null;

function report(value) {
  props.value = value;
  trigger('submit');
}

function show_thumbnail(file) {
  const thumbnail = find('.thumbnail');
  if (thumbnail.src) URL.revokeObjectURL(thumbnail.src);
  thumbnail.hidden = true; // stays so where the browser cannot show this format
  thumbnail.onload = () => { thumbnail.hidden = false; };
  thumbnail.src = URL.createObjectURL(file);
}

function send(file) {
  current?.abort();
  show_thumbnail(file);
  if (file.size > props.max_bytes) {
    report('too_large');
    return;
  }
  const progress = find('progress');
  const request = new XMLHttpRequest();
  current = request;
  request.open('POST', `photo?name=${encodeURIComponent(file.name)}`);
  request.setRequestHeader('Content-Type', 'application/octet-stream');
  request.upload.onprogress = (event) => {
    progress.hidden = false;
    progress.value = event.loaded / event.total;
  };
  request.onloadend = () => {
    if (request !== current) return; // another photograph came after it
    progress.hidden = true;
    const problems = { 413: 'too_large', 503: 'busy' };
    report(request.status === 200 ? request.responseText : problems[request.status] ?? 'lost');
  };
  request.send(file);
}

element.addEventListener('change', (event) => {
  event.stopPropagation();
  if (event.target.files?.length) send(event.target.files[0]);
  event.target.value = ''; // so that the same file can be chosen again
});
for (const kind of ['dragenter', 'dragover']) {
  element.addEventListener(kind, (event) => {
    event.preventDefault();
    find('.zone').classList.add('over');
  });
}
for (const kind of ['dragleave', 'drop']) {
  element.addEventListener(kind, () => find('.zone').classList.remove('over'));
}
element.addEventListener('drop', (event) => {
  event.preventDefault();
  if (event.dataTransfer.files.length) send(event.dataTransfer.files[0]);
});
document.addEventListener('paste', (event) => {
  const file = [...event.clipboardData.files].find((each) => each.type.startsWith('image/'));
  if (file) send(file);
});
