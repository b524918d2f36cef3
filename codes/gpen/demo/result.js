// Runs once, with `element` (the component) from Gradio; the result inside is replaced with every photograph.
element.addEventListener('input', (event) => {
  if (event.target.matches('.picture input')) {
    event.target.closest('.picture').style.setProperty('--at', `${event.target.value}%`);
  }
});

async function download(button) {
  const problem = element.querySelector('.problem');
  const strength = document.body.style.getPropertyValue('--strength').trim() || '1';
  problem.textContent = '';
  try {
    const reply = await fetch(`${button.dataset.address}?strength=${strength}`);
    if (!reply.ok) {
      problem.textContent = (await reply.json()).detail;
      return;
    }
    const link = document.createElement('a');
    link.href = URL.createObjectURL(await reply.blob());
    link.download = button.dataset.name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  } catch {
    problem.textContent = 'The server cannot be reached.';
  }
}

element.addEventListener('click', async (event) => {
  const button = event.target.closest('.download');
  if (!button || button.disabled) return;
  button.disabled = true;
  await download(button);
  button.disabled = false;
});
