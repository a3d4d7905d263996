// Browsers give no worker to a page that is opened from a file. There the search runs in a hidden frame.
if (location.protocol === "file:")
  window.Worker = class {
    constructor(url) {
      this.waiting = []
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      this.frame.onload = () => {
        const inside = this.frame.contentWindow, script = inside.document.createElement("script")
        inside.postMessage = data => setTimeout(() => this.onmessage?.({ data: structuredClone(data) }))
        script.src = new URL(url, location.href).href
        script.onerror = event => this.onerror?.(event)
        script.onload = () => {
          this.send = data => setTimeout(() => inside.onmessage({ data: inside.structuredClone(data) }))
          this.waiting.forEach(this.send)
        }
        inside.document.head.append(script)
      }
      this.frame.srcdoc = "<!doctype html>"
      document.documentElement.append(this.frame)
    }
    postMessage(data) { this.send ? this.send(data) : this.waiting.push(data) }
    terminate() { this.frame.remove() }
  }
